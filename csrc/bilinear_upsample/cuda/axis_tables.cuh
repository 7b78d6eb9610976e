#pragma once

#include <cstdint>

#include "../../common/launch.cuh"
#include "../axis_math.h"
#include "../score_layout.h"

// Where the pixels lie, tabulated once a call: sample positions are computed in double precision,
// of which most GPUs do little.
namespace fastseg {
namespace cuda {

template <typename T>
struct Tap {
  int32_t low, high;
  T low_weight, high_weight;
};

// The output pixels, [begin, end), that a source sample takes part in; unsigned, so that steps may
// lead past the last one, which may be near the largest int32_t.
struct Window {
  uint32_t begin, end;
};

template <typename T>
struct AxisTables {
  const Tap<T>*rows, *columns;                 // (H), (W)
  const Window *row_windows, *column_windows;  // (h), (w)
};

// What the sample `at` gives to the pixel of `tap`, of whose samples it is one.
template <typename T>
__device__ __forceinline__ T weight_of(const Tap<T>& tap, int32_t at) {
  const T low = tap.low == at ? tap.low_weight : T(0);
  return tap.high == at ? low + tap.high_weight : low;
}

inline int64_t table_bytes(const UpsampleGeometry& g) {
  return (g.height + g.width) * int64_t{sizeof(Tap<double>)} +
         (g.source_height + g.source_width) * int64_t{sizeof(Window)};
}

struct Axis {
  int32_t source, size;
  bool align_corners;
  double step;
  __device__ Taps taps(int64_t i) const {
    return sample_taps(i, source, size, align_corners, step);
  }
};

inline Axis row_axis(const UpsampleGeometry& g) {
  return {static_cast<int32_t>(g.source_height), static_cast<int32_t>(g.height), g.align_corners,
          sample_step(g.source_height, g.height, g.align_corners, g.scale_height)};
}
inline Axis column_axis(const UpsampleGeometry& g) {
  return {static_cast<int32_t>(g.source_width), static_cast<int32_t>(g.width), g.align_corners,
          sample_step(g.source_width, g.width, g.align_corners, g.scale_width)};
}

// The first pixel whose `high` sample is `at` or later, or whose `low` sample is later than `at`:
// both rise with the pixel.
template <bool kHigh>
__device__ uint32_t first_pixel(const Axis& axis, int64_t at) {
  int64_t begin = 0, end = axis.size;
  while (begin < end) {
    const int64_t middle = (begin + end) / 2;
    const Taps taps = axis.taps(middle);
    if (kHigh ? taps.high >= at : taps.low > at) {
      end = middle;
    } else {
      begin = middle + 1;
    }
  }
  return static_cast<uint32_t>(begin);
}

constexpr int kTableThreads = 128;

// One thread an entry: the taps of all pixels of both axes, then the windows of all samples.
template <typename T>
__global__ void __launch_bounds__(kTableThreads)
    tabulate_axes(Axis rows, Axis columns, Tap<T>* taps, Window* windows) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const bool in_rows = i < rows.size;
  if (i < int64_t{rows.size} + columns.size) {
    const Taps at = in_rows ? rows.taps(i) : columns.taps(i - rows.size);
    taps[i] = {static_cast<int32_t>(at.low), static_cast<int32_t>(at.high),
               static_cast<T>(1.0 - at.high_weight), static_cast<T>(at.high_weight)};
    return;
  }
  i -= int64_t{rows.size} + columns.size;
  if (i >= int64_t{rows.source} + columns.source) return;
  Axis axis = rows;
  int64_t sample = i;
  if (i >= rows.source) {
    axis = columns;
    sample = i - rows.source;
  }
  windows[i] = {first_pixel<true>(axis, sample), first_pixel<false>(axis, sample)};
}

// Fills `memory`, of table_bytes().
template <typename T>
AxisTables<T> make_tables(const UpsampleGeometry& g, void* memory, cudaStream_t stream) {
  Tap<T>* taps = static_cast<Tap<T>*>(memory);
  Window* windows = reinterpret_cast<Window*>(taps + g.height + g.width);

  const int64_t entries = g.height + g.width + g.source_height + g.source_width;
  const unsigned blocks = static_cast<unsigned>((entries + kTableThreads - 1) / kTableThreads);
  FASTSEG_LAUNCH(tabulate_axes<T>, blocks, kTableThreads, 0, stream, row_axis(g), column_axis(g),
                 taps, windows);
  return {taps, taps + g.height, windows, windows + g.source_height};
}

}  // namespace cuda
}  // namespace fastseg
