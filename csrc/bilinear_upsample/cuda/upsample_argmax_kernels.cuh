#pragma once

#include <cstdint>

#include "near_taps.cuh"
#include "pixel_packs.cuh"

// The class of the largest upsampled logit.
namespace fastseg {
namespace cuda {

constexpr int kArgmaxThreads = 256;

// Of one pixel in double precision; the first NaN wins over all numbers.
template <typename S>
__device__ int64_t exact_label(const S* logits, int64_t channels, int64_t samples, const Taps& row,
                               const Taps& column, int64_t source_width) {
  const S* upper = logits + row.low * source_width;
  const S* lower = logits + row.high * source_width;
  const double right = column.high_weight, left = 1.0 - right;
  const double below = row.high_weight, above = 1.0 - below;
  int64_t label = 0;
  double best = -infinity<double>();
  for (int64_t c = 0; c < channels; ++c, upper += samples, lower += samples) {
    const double value =
        above *
            (left * double(widen(upper[column.low])) + right * double(widen(upper[column.high]))) +
        below *
            (left * double(widen(lower[column.low])) + right * double(widen(lower[column.high])));
    if (value != value) return c;
    if (value > best) {
      best = value;
      label = c;
    }
  }
  return label;
}

// One thread owns kPixels neighbours of a row, which neighbouring threads write side by side. Where
// the two largest logits are nearer than single precision can tell apart, beside the largest
// sample, or a sample is not finite or so large that sums of them may not be, the pixel is decided
// in double precision.
template <typename S, typename Label, int kPixels>
__global__ void __launch_bounds__(kArgmaxThreads)
    argmax_of_pixels(const S* __restrict__ logits, AxisTables<Arithmetic<S>> tables, Axis rows,
                     Axis columns, int64_t batch, int64_t channels, UpsampleGeometry g,
                     int64_t first_block, Label* __restrict__ labels) {
  using T = Arithmetic<S>;
  using Near = NearTaps<T, kPixels>;
  constexpr T kDoubtful = T(2e-6), kLargest = T(1e37);
  const int64_t samples = g.source_height * g.source_width;
  const auto [image, y, x] = pack_place<kPixels>(thread_of(first_block), g);
  if (image >= batch) return;
  const Near taps(tables, y, x, g.source_width, g.width);
  const S* plane = logits + image * channels * samples;

  T best[kPixels], second[kPixels], largest = 0;
  int32_t label[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    best[i] = second[i] = -infinity<T>();
    label[i] = 0;
  }
  bool numbers = true;
#pragma unroll(kPixels == 1 ? 2 : 1)
  for (int64_t c = 0; c < channels; ++c) {
    const S *upper = plane + c * samples + taps.top, *lower = plane + c * samples + taps.bottom;
    T values[Near::kColumns];
#pragma unroll
    for (int k = 0; k < Near::kColumns; ++k) {
      const T above = widen(upper[taps.column[k]]), below = widen(lower[taps.column[k]]);
      values[k] = taps.vertical(above, below);
      largest = fmax(largest, fmax(fabs(above), fabs(below)));
      numbers = numbers && values[k] == values[k];  // fmax passes over NaN
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const T value = taps.horizontal(values, i);
      second[i] = fmax(second[i], fmin(best[i], value));
      if (value > best[i]) label[i] = static_cast<int32_t>(c);
      best[i] = fmax(best[i], value);
    }
  }
  Label* to = labels + (image * g.height + y) * g.width + x;
  unsigned doubtful = 0;  // a bit for each pixel
  Label pack[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const bool sure = numbers && largest < kLargest && best[i] - second[i] >= kDoubtful * largest;
    doubtful |= sure ? 0u : 1u << i;
    pack[i] = static_cast<Label>(label[i]);
  }
  store_run(pack, g.width - x, to);
#pragma unroll 1
  for (int i = 0; i < kPixels && x + i < g.width; ++i) {
    if (!(doubtful >> i & 1)) continue;
    to[i] = static_cast<Label>(
        exact_label(plane, channels, samples, rows.taps(y), columns.taps(x + i), g.source_width));
  }
}

}  // namespace cuda
}  // namespace fastseg
