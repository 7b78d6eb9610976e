#pragma once

#include <string>
#include <vector>

#include "../common/check.h"
#include "aspp.h"

// What the operators of atrous spatial pyramid pooling ask of their arguments.
namespace fastseg {

struct AsppArguments {
  ArgumentInfo input;                 // (B, C, H, W)
  std::vector<ArgumentInfo> weights;  // each (O, C, K, K), K odd
  std::vector<ArgumentInfo> biases;   // none, or (O,) for each weight
  std::vector<int64_t> rates;         // one for each weight; 0 for a 1x1 branch
  std::string combine, activation, accuracy;
};

// Fills in sizes and choices of `call`; pointers are the door's. The dtypes of weights and biases
// are compared with the input's only where `typed_weights`.
Error check_aspp(const char* op, const AsppArguments& arguments, bool typed_weights,
                 AsppCall* call);

// That `transformed`, whose values are at `values`, was made for this call.
Error check_aspp_transformed(const char* op, const ArgumentInfo& transformed, const float* values,
                             const AsppCall& call);

}  // namespace fastseg
