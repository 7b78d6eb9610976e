#pragma once

#include "../../common/buffer.h"
#include "../../common/gemm.h"
#include "../winograd_plan.h"

namespace fastseg {
namespace FASTSEG_ISA {

// (B, H, W, C) with the channels of a pixel side by side; strides in elements.
template <typename T>
struct Pixels {
  T* data;
  int64_t batch, row, column;

  T* at(int64_t b, int64_t y, int64_t x) const { return data + b * batch + y * row + x * column; }
};

// A convolution whose images are all laid out by pixels, in the type of its arithmetic.
template <typename T>
struct Layer {
  ConvGeometry geometry;
  Pixels<const T> input;
  const T* packed;           // weights, without their header
  const T* bias;             // (O,), and zeros for the last panels of a tile; or null
  Pixels<const T> residual;  // or null
  Pixels<T> output;
  Activation activation;
};

// Whether the output is stored past the caches: it is larger than what they keep for the next
// layer, and what a pixel gets at once is whole lines. (Measured on a Zen 4, 2026-11: up to 1.4
// times as fast.)
template <typename T>
bool is_streamed(const Layer<T>& layer, int64_t channels_at_once) {
  constexpr int64_t kStreamFrom = int64_t{8} << 20;  // bytes
  constexpr int64_t kLine = 64 / sizeof(T);
  const ConvGeometry& g = layer.geometry;
  const Pixels<T>& out = layer.output;
  const int64_t bytes =
      g.batch * g.out_height() * g.out_width() * g.out_channels * static_cast<int64_t>(sizeof(T));
  return bytes >= kStreamFrom && reinterpret_cast<uintptr_t>(out.data) % 64 == 0 &&
         channels_at_once % kLine == 0 && out.batch % kLine == 0 && out.row % kLine == 0 &&
         out.column % kLine == 0;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
