#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../common/check.h"
#include "bilinear_upsample.h"

// What the operators of bilinear upsampling ask of their arguments, whatever door these come
// through. Letters as in bilinear_upsample.h. A check that passes fills in `geometry`.
namespace fastseg {

// Where the pixels lie, as the user wrote it.
struct PlacementArguments {
  bool align_corners;
  std::optional<double> scale_height, scale_width;
};

// input (B, C, h, w), upsampled to `size` (H, W).
Error check_upsample(const char* op, const ArgumentInfo& input, const std::vector<int64_t>& size,
                     const PlacementArguments& placement, UpsampleGeometry* geometry);

// grad (B, C, H, W), the gradient of an upsampled (B, C, h, w); input_size (h, w).
Error check_upsample_backward(const char* op, const ArgumentInfo& grad,
                              const std::vector<int64_t>& input_size,
                              const PlacementArguments& placement, UpsampleGeometry* geometry);

// dtype is "int64" or "uint8"; the second holds classes below 256.
Error check_upsample_argmax(const char* op, const ArgumentInfo& logits, const std::string& dtype);

// grad and probs (B, C, H, W).
Error check_same_scores(const char* op, const ArgumentInfo& probs, const ArgumentInfo& grad);

struct CrossEntropyArguments {
  ArgumentInfo logits;                       // (B, C, h, w)
  ArgumentInfo labels;                       // (B, H, W), int64 or uint8
  std::optional<ArgumentInfo> weight;        // (C), floating
  std::optional<ArgumentInfo> pixel_weight;  // (B, H, W), floating
  std::string reduction;                     // "none", "sum" or "mean"
  std::optional<ArgumentInfo> grad;          // of the loss: (B, H, W) for "none", else ()
};
Error check_upsample_cross_entropy(const char* op, const CrossEntropyArguments& arguments,
                                   const PlacementArguments& placement, UpsampleGeometry* geometry,
                                   Reduction* reduction);

}  // namespace fastseg
