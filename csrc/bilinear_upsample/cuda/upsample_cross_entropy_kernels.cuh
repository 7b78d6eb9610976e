#pragma once

#include <cstdint>

#include "../../common/block_sum.cuh"
#include "../../common/online_softmax.cuh"
#include "bilinear_upsample_cuda.h"
#include "near_taps.cuh"
#include "pixel_packs.cuh"

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

// The labels of a pack, of which `left` are pixels of the row.
template <int kPixels>
__device__ __forceinline__ void load_labels(const void* labels, bool bytes, int64_t at,
                                            int64_t left, int64_t (&to)[kPixels]) {
  if (!bytes) return load_run(static_cast<const int64_t*>(labels) + at, left, to);
  uint8_t narrow_labels[kPixels];
  load_run(static_cast<const uint8_t*>(labels) + at, left, narrow_labels);
#pragma unroll
  for (int i = 0; i < kPixels; ++i) to[i] = narrow_labels[i];
}

// One thread owns kPixels neighbours of a row; neighbouring threads read and write neighbouring
// packs. `losses` and `records` may be null; `partial` gets the sums of each block.
template <typename S, int kPixels>
__global__ void __launch_bounds__(kLossThreads)
    losses_of_pixels(const S* __restrict__ logits, AxisTables<Arithmetic<S>> tables, int64_t batch,
                     int64_t channels, UpsampleGeometry g, int64_t first_block,
                     LossArguments<Arithmetic<S>> arguments, Arithmetic<S>* __restrict__ losses,
                     PixelRecord<Arithmetic<S>>* __restrict__ records,
                     LossSums* __restrict__ partial) {
  using T = Arithmetic<S>;
  using Near = NearTaps<T, kPixels>;
  const int64_t samples = g.source_height * g.source_width;
  const auto [image, y, x] = pack_place<kPixels>(thread_of(first_block), g);
  double sums[3] = {0, 0, 0};  // as LossSums
  if (image < batch) {
    const int64_t at = (image * g.height + y) * g.width + x, left = g.width - x;
    const S* plane = logits + image * channels * samples;
    const Near taps(tables, y, x, g.source_width, g.width);
    T columns[Near::kColumns];
    OnlineSoftmax<T> softmax[kPixels];
    for (int64_t c = 0; c < channels; ++c) {
      taps.columns_of(plane + c * samples, columns);
#pragma unroll
      for (int i = 0; i < kPixels; ++i) softmax[i].add(taps.horizontal(columns, i));
    }
    int64_t labels[kPixels];
    load_labels(arguments.labels, arguments.byte_labels, at, left, labels);
    T loss[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int64_t label = labels[i];
      const bool known = label >= 0 && label < channels;
      PixelRecord<T> record = {0, 0, 0, -1};
      loss[i] = 0;
      if (i < left && label != arguments.ignore_index && !known) {
        loss[i] = sums[0] = sums[1] = not_a_number<double>();
        record = {0, not_a_number<T>(), 0, -1};
      } else if (i < left && label != arguments.ignore_index) {
        softmax[i].finish();
        T omega = arguments.weight ? arguments.weight[label] : T(1);
        if (arguments.pixel_weight) omega *= arguments.pixel_weight[at + i];
        taps.columns_of(plane + label * samples, columns);
        const T own = taps.horizontal(columns, i);
        T surprise = log_of(softmax[i].sum) + (softmax[i].largest - own);
        if (surprise < 0) surprise = 0;  // by rounding
        loss[i] = omega * surprise;
        sums[0] += loss[i];
        sums[1] += omega;
        sums[2] += 1;
        if (arguments.grad_map) omega *= arguments.grad_map[at + i];
        record = {softmax[i].largest, omega / softmax[i].sum, omega, static_cast<int32_t>(label)};
      }
      if (records && i < left) records[at + i] = record;
    }
    if (losses) store_run(loss, left, losses + at);
  }
  block_sum<kLossThreads>(sums);
  if (threadIdx.x == 0) partial[first_block + blockIdx.x] = {sums[0], sums[1], sums[2]};
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
  template <int kPack>
  __device__ void at(const Source& source, int32_t y, int32_t x, T (&values)[kPack]) const {
    const NearTaps<T, kPack> taps(tables, y, x, source_width, width);
    T columns[NearTaps<T, kPack>::kColumns];
    taps.columns_of(source.logits, columns);  // rounded as `largest` was
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values[i] = 0;
      if (x + i >= width) continue;
      const PixelRecord<T> record = source.records[y * width + x + i];
      if (record.scale == 0) continue;  // ignored, or weighs nothing
      const T share = exp_of(taps.horizontal(columns, i) - record.largest) * record.scale;
      values[i] = record.label == source.label ? share - record.omega : share;
    }
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
