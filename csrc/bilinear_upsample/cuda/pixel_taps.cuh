#pragma once

#include <cstdint>

#include "../../common/storage.cuh"
#include "axis_tables.cuh"

// The four samples around kPixels neighbouring pixels of one output row.
namespace fastseg {
namespace cuda {

template <typename T, int kPixels>
struct PixelTaps {
  int64_t top, bottom;  // of the source rows' beginnings
  T top_weight, bottom_weight;
  int32_t left[kPixels], right[kPixels];
  T left_weight[kPixels], right_weight[kPixels];

  // Pixels (y, x), (y, x + 1), ...; `row_stride` leads from one row of samples to the next.
  __device__ PixelTaps(const AxisTables<T>& tables, int32_t y, int32_t x, int64_t row_stride) {
    const Tap<T> row = tables.rows[y];
    top = row.low * row_stride;
    bottom = row.high * row_stride;
    top_weight = row.low_weight;
    bottom_weight = row.high_weight;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const Tap<T> column = tables.columns[x + i];
      left[i] = column.low;
      right[i] = column.high;
      left_weight[i] = column.low_weight;
      right_weight[i] = column.high_weight;
    }
  }

  // A sample of weight zero counts: infinity gives NaN there, as in torch.
  template <typename S>
  __device__ __forceinline__ T value(const S* plane, int i) const {
    const S* upper = plane + top;
    const S* lower = plane + bottom;
    return top_weight *
               (left_weight[i] * widen(upper[left[i]]) + right_weight[i] * widen(upper[right[i]])) +
           bottom_weight *
               (left_weight[i] * widen(lower[left[i]]) + right_weight[i] * widen(lower[right[i]]));
  }
};

}  // namespace cuda
}  // namespace fastseg
