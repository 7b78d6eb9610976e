#pragma once

#include <cstdint>

#include "../../common/block_sum.cuh"
#include "../../common/online_softmax.cuh"
#include "bilinear_upsample_cuda.h"
#include "pixel_packs.cuh"
#include "pixel_taps.cuh"

// The cross-entropy of upsampled logits: what each pixel loses, the sums, and what its gradient
// needs of each pixel, so that the gradient's pass need not go through all classes again.
namespace fastseg {
namespace cuda {

constexpr int kLossThreads = 256;
constexpr int kTotalThreads = 256;

// The gradient of the pixel's loss with respect to the upsampled logit v of class c is
// exp(v - largest) scale, less omega where c is the label.
template <typename T>
struct alignas(4 * sizeof(T)) PixelRecord {
  T largest, scale, omega;
  int32_t label;
};

// Sums over pixels.
struct LossSums {
  double loss, weight, counted;
};

template <typename T>
struct LossArguments {
  const void* labels;
  bool byte_labels;
  const T *weight, *pixel_weight, *grad_map;  // null where there is none
  int64_t ignore_index;
};

// One thread a pixel; neighbouring threads read and write neighbouring pixels. `losses` and
// `records` may be null; `partial` gets the sums of each block.
template <typename S>
__global__ void __launch_bounds__(kLossThreads)
    losses_of_pixels(const S* __restrict__ logits, AxisTables<Arithmetic<S>> tables, int64_t batch,
                     int64_t channels, UpsampleGeometry g, int64_t first_block,
                     LossArguments<Arithmetic<S>> arguments, Arithmetic<S>* __restrict__ losses,
                     PixelRecord<Arithmetic<S>>* __restrict__ records,
                     LossSums* __restrict__ partial) {
  using T = Arithmetic<S>;
  const int64_t pixels = g.height * g.width, samples = g.source_height * g.source_width;
  const int64_t block = first_block + blockIdx.x, at = block * kLossThreads + threadIdx.x;
  double sums[3] = {0, 0, 0};  // as LossSums
  if (at < batch * pixels) {
    const int64_t label = arguments.byte_labels ? static_cast<const uint8_t*>(arguments.labels)[at]
                                                : static_cast<const int64_t*>(arguments.labels)[at];
    const bool known = label >= 0 && label < channels;
    T loss = 0;
    PixelRecord<T> record = {0, 0, 0, -1};
    if (label != arguments.ignore_index && !known) {
      loss = sums[0] = sums[1] = not_a_number<double>();
      record = {0, not_a_number<T>(), 0, -1};
    } else if (label != arguments.ignore_index) {
      const auto [image, y, x] = pack_place<1>(at, g);
      const PixelTaps<T, 1> taps(tables, y, x, g.source_width);
      const S* plane = logits + image * channels * samples;
      OnlineSoftmax<T> softmax;
      for (int64_t c = 0; c < channels; ++c) softmax.add(taps.value(plane + c * samples, 0));
      softmax.finish();
      T omega = arguments.weight ? arguments.weight[label] : T(1);
      if (arguments.pixel_weight) omega *= arguments.pixel_weight[at];
      const T own = taps.value(plane + label * samples, 0);
      T surprise = log_of(softmax.sum) + (softmax.largest - own);
      if (surprise < 0) surprise = 0;  // by rounding
      loss = omega * surprise;
      sums[0] = loss;
      sums[1] = omega;
      sums[2] = 1;
      if (arguments.grad_map) omega *= arguments.grad_map[at];
      record = {softmax.largest, omega / softmax.sum, omega, static_cast<int32_t>(label)};
    }
    if (losses) losses[at] = loss;
    if (records) records[at] = record;
  }
  block_sum<kLossThreads>(sums);
  if (threadIdx.x == 0) partial[block] = {sums[0], sums[1], sums[2]};
}

// One block: adds the partial sums up, in one order, and makes of them the loss and the factor of
// the gradient, which was summed without it; each may be null. The mean of no pixel is NaN, and its
// gradient zero, as torch has it.
template <typename T>
__global__ void __launch_bounds__(kTotalThreads)
    total_loss(const LossSums* __restrict__ partial, int64_t count, bool mean,
               const T* __restrict__ grad_loss, T* __restrict__ loss, T* __restrict__ factor) {
  double sums[3] = {0, 0, 0};
  for (int64_t i = threadIdx.x; i < count; i += kTotalThreads) {
    sums[0] += partial[i].loss;
    sums[1] += partial[i].weight;
    sums[2] += partial[i].counted;
  }
  block_sum<kTotalThreads>(sums);
  if (threadIdx.x > 0) return;
  if (loss) *loss = static_cast<T>(mean ? sums[0] / sums[1] : sums[0]);
  if (factor) {
    const double upstream = grad_loss ? *grad_loss : 1.0;
    // Of labels that are none the sums are NaN, and the gradient must be.
    const bool none = sums[2] == 0 && sums[1] == 0;
    *factor = static_cast<T>(mean ? (none ? 0.0 : upstream / sums[1]) : upstream);
  }
}

// The gradient of the upsampled logits, from the pixels' records; written times `factor`.
template <typename S, typename G>
struct CrossEntropyGradient {
  using T = Arithmetic<S>;
  const S* logits;  // (B, C, h, w)
  AxisTables<T> tables;
  const PixelRecord<T>* records;
  const T* factor;  // null is one
  G* grad;
  int64_t channels, source_height, source_width, height, width;
  bool channels_last;  // of `grad`

  struct Source {
    const S* logits;
    const PixelRecord<T>* records;
    int32_t label;
  };
  __device__ Source source(int64_t plane, int64_t) const {
    const int64_t image = plane / channels;
    return {logits + plane * source_height * source_width, records + image * height * width,
            static_cast<int32_t>(plane - image * channels)};
  }
  __device__ T at(const Source& source, int32_t y, int32_t x) const {
    const PixelRecord<T> record = source.records[y * width + x];
    if (record.scale == 0) return 0;  // ignored, or weighs nothing
    const PixelTaps<T, 1> taps(tables, y, x, source_width);
    const T share = exp_of(taps.value(source.logits, 0) - record.largest) * record.scale;
    return record.label == source.label ? share - record.omega : share;
  }
  __device__ void write(T sum, int64_t plane, int64_t, int32_t row, int32_t column) const {
    const int64_t image = plane / channels, samples = source_height * source_width;
    const int64_t in_plane = row * source_width + column;
    const int64_t to = channels_last
                           ? (image * samples + in_plane) * channels + plane - image * channels
                           : plane * samples + in_plane;
    narrow(factor ? *factor * sum : sum, grad[to]);
  }
};

}  // namespace cuda
}  // namespace fastseg
