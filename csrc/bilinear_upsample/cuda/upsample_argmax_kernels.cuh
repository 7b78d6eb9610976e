#pragma once

#include <cstdint>

#include "pixel_packs.cuh"
#include "pixel_taps.cuh"

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

// One thread a pixel, which neighbouring threads write side by side. Where the two largest logits
// are nearer than single precision can tell apart, beside the largest sample, or a sample is not
// finite or so large that sums of them may not be, the pixel is decided in double precision.
template <typename S, typename Label>
__global__ void __launch_bounds__(kArgmaxThreads)
    argmax_of_pixels(const S* __restrict__ logits, AxisTables<Arithmetic<S>> tables, Axis rows,
                     Axis columns, int64_t batch, int64_t channels, UpsampleGeometry g,
                     int64_t first_block, Label* __restrict__ labels) {
  using T = Arithmetic<S>;
  constexpr T kDoubtful = T(2e-6), kLargest = T(1e37);
  const int64_t pixels = g.height * g.width, samples = g.source_height * g.source_width;
  const auto [image, y, x] = pack_place<1>(thread_of(first_block), g);
  if (image >= batch) return;
  const PixelTaps<T, 1> taps(tables, y, x, g.source_width);
  const S* plane = logits + image * channels * samples;

  T best = -infinity<T>(), second = best, largest = 0;
  int64_t label = 0;
  bool finite = true;
#pragma unroll 2
  for (int64_t c = 0; c < channels; ++c) {
    const S* upper = plane + c * samples + taps.top;
    const S* lower = plane + c * samples + taps.bottom;
    const T a = widen(upper[taps.left[0]]), b = widen(upper[taps.right[0]]);
    const T d = widen(lower[taps.left[0]]), e = widen(lower[taps.right[0]]);
    const T magnitude = fmax(fmax(fabs(a), fabs(b)), fmax(fabs(d), fabs(e)));
    largest = fmax(largest, magnitude);
    finite = finite && a == a && b == b && d == d && e == e;  // fmax passes over NaN
    const T value = taps.top_weight * (taps.left_weight[0] * a + taps.right_weight[0] * b) +
                    taps.bottom_weight * (taps.left_weight[0] * d + taps.right_weight[0] * e);
    if (value > best) {
      second = best;
      best = value;
      label = c;
    } else if (value > second) {
      second = value;
    }
  }
  if (!finite || !(largest < kLargest) || best - second < kDoubtful * largest) {
    label = exact_label(plane, channels, samples, rows.taps(y), columns.taps(x), g.source_width);
  }
  labels[image * pixels + y * g.width + x] = static_cast<Label>(label);
}

}  // namespace cuda
}  // namespace fastseg
