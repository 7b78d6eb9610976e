#pragma once

#include <cstdint>

#include "../common/activation.h"
#include "../common/parallel.h"

// Two-dimensional convolution with rate, stride, padding and groups, and what follows it in a
// network (bias, residual, activation): contract between the kernels and the doors that lead to
// them.
//
// Letters: B images, C input channels, H, W; O output channels; kernel (KH, KW).
namespace fastseg {

struct ConvGeometry {
  int64_t batch, in_channels, height, width;
  int64_t out_channels, kernel_height, kernel_width;
  int64_t rate[2];     // rows, columns
  int64_t padding[4];  // top, bottom, left, right
  int64_t stride[2];   // rows, columns
  int64_t groups;

  int64_t out_height() const {
    return (height + padding[0] + padding[1] - rate[0] * (kernel_height - 1) - 1) / stride[0] + 1;
  }
  int64_t out_width() const {
    return (width + padding[2] + padding[3] - rate[1] * (kernel_width - 1) - 1) / stride[1] + 1;
  }
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t group_inputs() const { return in_channels / groups; }
  int64_t group_outputs() const { return out_channels / groups; }
};

// float16 and bfloat16 are computed in float32, float64 in float64.
enum class ElementType { kFloat, kDouble, kHalf, kBFloat16 };

enum class ConvAlgorithm {
  kDirect,        // any geometry: taps that meet only padding are left out
  kWinograd,      // 3x3, stride 1, one group: error below 3e-5 of the largest output
  kWinogradHigh,  // the same with transforms whose error is below 3e-6
  kPointwise,     // 1x1, no padding, one group
  kStrassen,      // the same with seven eighths of the products; C even, C and O at least 32
};

// (B, C, H, W) of any layout: strides in elements.
template <typename T>
struct Image {
  T* data;
  int64_t batch, channel, row, column;

  template <typename U>
  Image<U> as() const {
    return {static_cast<U*>(data), batch, channel, row, column};
  }
};

// Weights as the layer has them, or as `transform` has made them.
struct ConvWeight {
  const void* data;     // (O, C / groups, KH, KW), or null
  int64_t stride[4];    // of `data`, in elements
  const float* packed;  // what DilatedConvKernels::transform wrote, or null
};

struct ConvCall {
  ConvGeometry geometry;
  ConvAlgorithm algorithm;
  ElementType type;         // of everything but ConvWeight::packed
  Image<const void> input;  // (B, C, H, W)
  ConvWeight weight;
  const void* bias;            // (O,) or null
  Image<const void> residual;  // (B, O, out_height, out_width), or null
  Activation activation;
  Image<void> output;  // (B, O, out_height, out_width), channels_last or NCHW
};

// CPU entry points of one instruction set.
struct DilatedConvKernels {
  void (*convolve)(const ConvCall& call, Parallel parallel);
  // packed (packed_weight_size(geometry, algorithm)); the same bits for every instruction set.
  void (*transform)(const ConvGeometry& geometry, ConvAlgorithm algorithm, ElementType type,
                    const ConvWeight& weight, Parallel parallel, float* packed);
  // pixels (B, H, W, C) = image (B, C, H, W).
  void (*to_pixels)(const Image<const float>& image, int64_t batch, int64_t channels,
                    int64_t height, int64_t width, Parallel parallel, float* pixels);
};

}  // namespace fastseg
