#pragma once

#include <cstdint>

#include "../../common/storage.cuh"
#include "axis_tables.cuh"

// Neighbouring pixels of one output row that are made of the same few samples.
namespace fastseg {
namespace cuda {

// Whether kPixels neighbours, less than a sample apart, lie in three columns of samples.
template <int kPixels>
bool taps_are_near(const UpsampleGeometry& g) {
  return kPixels == 1 || (g.source_width != g.width && kPixels * column_axis(g).step <= 1);
}

// The samples around kPixels neighbours: in the first two columns, or from some pixel on in the
// last two. Every column is interpolated vertically once, and then serves all pixels.
template <typename T, int kPixels>
struct NearTaps {
  static constexpr int kColumns = kPixels == 1 ? 2 : 3;

  int64_t top, bottom;  // of the source rows' beginnings
  T top_weight, bottom_weight;
  int32_t column[kColumns];
  T left_weight[kPixels], right_weight[kPixels];
  bool moved[kPixels];

  // Pixels (y, x), (y, x + 1), ...; past the row's end the last one is repeated.
  __device__ NearTaps(const AxisTables<T>& tables, int32_t y, int32_t x, int64_t source_width,
                      int64_t width) {
    const Tap<T> row = tables.rows[y];
    top = row.low * source_width;
    bottom = row.high * source_width;
    top_weight = row.low_weight;
    bottom_weight = row.high_weight;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const Tap<T> tap = tables.columns[x + i < width ? x + i : width - 1];
      if (i == 0) column[0] = tap.low;
      if (i == 0) column[1] = tap.high;
      if (i == kPixels - 1) column[kColumns - 1] = tap.high;
      moved[i] = tap.low != column[0];
      left_weight[i] = tap.low_weight;
      right_weight[i] = tap.high_weight;
    }
  }

  // The columns' values at the pixels' row.
  template <typename S>
  __device__ __forceinline__ void columns_of(const S* plane, T (&values)[kColumns]) const {
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      values[k] = vertical(widen(plane[top + column[k]]), widen(plane[bottom + column[k]]));
    }
  }
  __device__ __forceinline__ T vertical(T upper, T lower) const {
    return top_weight * upper + bottom_weight * lower;
  }
  // Of pixel i, from the columns' values.
  __device__ __forceinline__ T horizontal(const T (&columns)[kColumns], int i) const {
    const T left = moved[i] ? columns[1] : columns[0];
    const T right = moved[i] ? columns[kColumns - 1] : columns[1];
    return left_weight[i] * left + right_weight[i] * right;
  }
};

}  // namespace cuda
}  // namespace fastseg
