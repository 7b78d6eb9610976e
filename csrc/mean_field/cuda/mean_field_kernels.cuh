#pragma once

#include <cstdint>

#include "../../common/block_sum.cuh"
#include "../../common/online_softmax.cuh"
#include "mean_field_cuda.h"

namespace fastseg {
namespace cuda {

constexpr int kFieldThreads = 256;
constexpr int kTransposeSide = 32, kTransposeRows = 8;
constexpr int kFusedKernels = 4;  // Gaussian kernels of one pass over the pixels

// (B, rows, columns) to (B, columns, rows): a block moves a tile through shared memory, so that
// neighbouring threads both read and write neighbours. Grid: tiles along a row, times tiles of rows
// and images.
__global__ void __launch_bounds__(kTransposeSide* kTransposeRows)
    transpose_tiles(const float* __restrict__ from, int64_t rows, int64_t columns,
                    unsigned column_tiles, unsigned row_tiles, float* __restrict__ to) {
  FASTSEG_SHARED(float, tile, [kTransposeSide][kTransposeSide + 1]);
  const int x = threadIdx.x % kTransposeSide, y = threadIdx.x / kTransposeSide;
  const int64_t column = int64_t{blockIdx.x % column_tiles} * kTransposeSide;
  const int64_t row = int64_t{blockIdx.x / column_tiles % row_tiles} * kTransposeSide;
  const int64_t image = blockIdx.x / column_tiles / row_tiles * rows * columns;
  for (int i = y; i < kTransposeSide; i += kTransposeRows) {
    if (row + i < rows && column + x < columns) {
      tile[i][x] = from[image + (row + i) * columns + column + x];
    }
  }
  __syncthreads();
  for (int i = y; i < kTransposeSide; i += kTransposeRows) {
    if (column + i < columns && row + x < rows) {
      to[image + (column + i) * rows + row + x] = tile[x][i];
    }
  }
}

__global__ void __launch_bounds__(kFieldThreads)
    fill_ones(float* __restrict__ values, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x;
  if (i < count) values[i] = 1;
}

// One block an image: the mean of its N numbers, summed in one order.
__global__ void __launch_bounds__(kFieldThreads)
    mean_of_images(const float* __restrict__ values, int64_t points, float* __restrict__ means) {
  double sum[1] = {0};
  for (int64_t i = threadIdx.x; i < points; i += kFieldThreads) {
    sum[0] += values[blockIdx.x * points + i];
  }
  block_sum<kFieldThreads>(sum);
  if (threadIdx.x == 0) means[blockIdx.x] = static_cast<float>(sum[0] / double(points));
}

// One thread a pixel: splat weights times what goes before the filter, slice weights times alpha
// and what comes after it. `filtered` (P) is the filter of ones, without alpha. What a pixel hears
// of itself is, between two vertices of its simplex that are n remainders apart, 2^-n +
// 2^-(D + 1 - n) of the product of their weights.
__global__ void __launch_bounds__(kFieldThreads)
    normalize_weights(const float* __restrict__ barycentric, const float* __restrict__ filtered,
                      const float* __restrict__ means, FieldNormalization normalization,
                      int64_t points, int64_t pixels, int corners, float alpha,
                      float* __restrict__ splat_weights, float* __restrict__ slice_weights,
                      float* __restrict__ share) {
  const int64_t pixel = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x;
  if (pixel >= pixels) return;
  constexpr float kSmallestNorm = 1e-20f;
  const float norm = alpha * filtered[pixel];
  float before = 1, after = alpha;
  if (normalization == FieldNormalization::kMean) after /= alpha * means[pixel / points];
  if (normalization == FieldNormalization::kBefore) before = 1 / (norm + kSmallestNorm);
  if (normalization == FieldNormalization::kAfter) after /= norm + kSmallestNorm;
  if (normalization == FieldNormalization::kSymmetric) {
    before = 1 / sqrtf(norm + kSmallestNorm);
    after *= before;
  }
  const float* weight = barycentric + pixel * corners;
  float own = 0;
  for (int i = 0; i < corners; ++i) {
    splat_weights[pixel * corners + i] = before * weight[i];
    slice_weights[pixel * corners + i] = after * weight[i];
    own += (1 + ldexpf(1.0f, 1 - corners)) * weight[i] * weight[i];
    for (int j = 0; j < i; ++j) {
      const int apart = i - j;
      own += 2 * (ldexpf(1.0f, -apart) + ldexpf(1.0f, apart - corners)) * weight[i] * weight[j];
    }
  }
  if (share) share[pixel] = before * after * own;
}

// One thread a vertex and label: lattice (M, L) times the transposed transform (L, L). The labels'
// transform and the pixels' filter may be done in either order, and vertices are fewer.
__global__ void __launch_bounds__(kFieldThreads)
    transform_rows(const float* __restrict__ lattice, const float* __restrict__ transform,
                   int64_t vertices, int64_t labels, float* __restrict__ result) {
  const int64_t i = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x;
  if (i >= vertices * labels) return;
  const int64_t vertex = i / labels, label = i - vertex * labels;
  float sum = 0;
  for (int64_t m = 0; m < labels; ++m) {
    sum += transform[label * labels + m] * lattice[vertex * labels + m];
  }
  result[i] = sum;
}

// What an update reads of a Gaussian kernel.
struct FieldMessage {
  const float* lattice;  // (M, L), blurred; a dense transform is in it already
  const int32_t* vertices;
  const float *slice_weights, *share, *transform;
  int64_t transform_size;
  int corners;

  // To one label of a pixel, of which `row` (L) is the present distribution.
  __device__ __forceinline__ float to(int64_t pixel, int64_t label, int64_t labels,
                                      const float* row) const {
    float sum = 0;
    for (int k = 0; k < corners; ++k) {
      const int64_t vertex = vertices[pixel * corners + k];
      sum += slice_weights[pixel * corners + k] * lattice[vertex * labels + label];
    }
    const bool dense = transform_size > labels;
    if (!dense) {
      if (share) sum -= share[pixel] * row[label];
      return transform[transform_size == 1 ? 0 : label] * sum;
    }
    if (share) {
      float own = 0;
      for (int64_t m = 0; m < labels; ++m) own += transform[label * labels + m] * row[m];
      sum -= share[pixel] * own;
    }
    return sum;
  }
};

struct FieldMessages {
  int count;
  FieldMessage of[kFusedKernels];
};

// kLanes threads own a pixel, each of them every kLanes-th label, whose rows lie side by side.
// Logits are base + messages, where base is -unary or, after a pass that was not the last, what
// that pass wrote; the last writes their softmax.
template <int kLanes>
__global__ void __launch_bounds__(kFieldThreads)
    update_pixels(const float* __restrict__ base, float base_sign, FieldMessages messages,
                  const float* __restrict__ q, int64_t pixels, int64_t labels, bool last,
                  float* __restrict__ result) {
  const int lane = threadIdx.x % kLanes;
  const int64_t pixel = int64_t{blockIdx.x} * (kFieldThreads / kLanes) + threadIdx.x / kLanes;
  if (pixel >= pixels) return;  // all lanes of it
  const unsigned first_lane = threadIdx.x % 32 / kLanes * kLanes;
  const unsigned group = (kLanes == 32 ? 0xffffffffu : (1u << kLanes % 32) - 1) << first_lane;
  const float* row = q + pixel * labels;
  float* to = result + pixel * labels;
  OnlineSoftmax<float> softmax;
  for (int64_t label = lane; label < labels; label += kLanes) {
    float logit = base_sign * base[pixel * labels + label];
    for (int k = 0; k < messages.count; ++k) {
      logit += messages.of[k].to(pixel, label, labels, row);
    }
    to[label] = logit;
    softmax.add(logit);
  }
  if (!last) return;
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    const float largest = __shfl_xor_sync(group, softmax.largest, lanes, kLanes);
    const float sum = __shfl_xor_sync(group, softmax.sum, lanes, kLanes);
    softmax.merge(largest, sum);
  }
  softmax.finish();
  const float inverse = 1 / softmax.sum;
  for (int64_t label = lane; label < labels; label += kLanes) {
    to[label] = exp_of(to[label] - softmax.largest) * inverse;
  }
}

// One thread a pixel of unary (B, L, N): whether it holds NaN or -infinity, or nothing finite.
__global__ void __launch_bounds__(kFieldThreads)
    find_unusable(const float* __restrict__ unary, int64_t labels, int64_t points, int64_t pixels,
                  int32_t* flag) {
  const int64_t pixel = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x;
  if (pixel >= pixels) return;
  const int64_t image = pixel / points;
  const float* energy = unary + image * labels * points + (pixel - image * points);
  bool finite = false, wrong = false;
  for (int64_t label = 0; label < labels; ++label) {
    const float value = energy[label * points];
    finite = finite || (value - value == 0);
    wrong = wrong || value != value || value == -infinity<float>();
  }
  if (wrong || !finite) atomicMax(flag, 1);
}

__global__ void __launch_bounds__(kFieldThreads)
    find_not_finite(const float* __restrict__ values, int64_t count, int32_t* flag) {
  const int64_t i = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x;
  if (i < count && !(values[i] - values[i] == 0)) atomicMax(flag, 1);
}

}  // namespace cuda
}  // namespace fastseg
