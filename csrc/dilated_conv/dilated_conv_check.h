#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../common/check.h"
#include "dilated_conv.h"
#include "gemm_plan.h"

// What the convolution operators ask of their arguments, whatever door these come through.
namespace fastseg {

struct ConvArguments {
  ArgumentInfo input;                    // (B, C, H, W)
  ArgumentInfo weight;                   // (O, C / groups, KH, KW)
  std::optional<ArgumentInfo> bias;      // (O,)
  std::optional<ArgumentInfo> residual;  // shape of the output
  std::vector<int64_t> rate, padding, stride;
  int64_t groups;
  std::string algorithm;
};

// Ranks, ranges and that the sizes belong together; `geometry` is then filled in.
Error check_conv_geometry(const char* op, const ConvArguments& arguments, ConvGeometry* geometry);

// That and the dtypes.
Error check_conv_tensors(const char* op, const ConvArguments& arguments, ConvGeometry* geometry);

// That, and that the algorithm serves the geometry.
Error check_dilated_conv2d(const char* op, const ConvArguments& arguments, ConvGeometry* geometry,
                           ConvAlgorithm* algorithm);

Error check_algorithm(const char* op, const std::string& name, const ConvGeometry& geometry,
                      ConvAlgorithm* algorithm);

// The same of a GPU's algorithms.
Error check_gemm_plan(const char* op, const std::string& name, const ConvGeometry& geometry,
                      ElementType type, GemmPlan* plan);

Error check_floating_image(const char* op, const ArgumentInfo& argument);

// The types whose weights are transformed: all but float64.
Error check_transformable(const char* op, const ArgumentInfo& argument);

Error check_input_size(const char* op, const std::vector<int64_t>& input_size);

// One list, which costs a call less than five: weight shape, rate, padding, stride and groups.
Error check_layer_size(const char* op, const std::vector<int64_t>& weight_and_geometry);

// That `transformed`, whose values are at `values`, was made for this layer.
Error check_transformed(const char* op, const ArgumentInfo& transformed, const float* values,
                        const ConvGeometry& geometry, ConvAlgorithm algorithm);

// "none", "relu" or "relu6".
Error check_activation(const char* op, const std::string& name, Activation* activation);

// "default" or "high".
Error check_accuracy(const char* op, const std::string& name, bool* high);

const char* algorithm_name(ConvAlgorithm algorithm);

}  // namespace fastseg
