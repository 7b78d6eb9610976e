#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../common/check.h"
#include "mean_field.h"

// What mean-field inference asks of its arguments, whatever door these come through.
namespace fastseg {

constexpr int64_t kMaxLabels = 1000;
constexpr int64_t kMaxIterations = 100;

std::optional<Normalization> normalization_from_name(const std::string& name);

// A whole batch in one call.
struct MeanFieldArguments {
  ArgumentInfo unary;                    // (B, L, *spatial)
  std::vector<ArgumentInfo> features;    // each (B, D, *spatial)
  std::vector<ArgumentInfo> transforms;  // each (), (L,) or (L, L)
  int64_t iterations;
  std::vector<std::string> normalizations;  // one per kernel
};
Error check_mean_field(const MeanFieldArguments& arguments);

// One image, call by call: MeanField(spatial, labels), then its methods.
Error check_mean_field_image(const char* op, const std::vector<int64_t>& spatial, int64_t labels);
Error check_mean_field_kernel(const char* op, const ArgumentInfo& features,
                              const ArgumentInfo& transform, const std::string& normalization,
                              int64_t labels, int64_t points);
Error check_mean_field_iterations(const char* op, int64_t iterations);
// (L, N) float32.
Error check_mean_field_field(const char* op, const ArgumentInfo& field, int64_t labels,
                             int64_t points);

}  // namespace fastseg
