#pragma once

#include <cstdint>

#include "../../common/block_sum.cuh"
#include "../../common/online_softmax.cuh"
#include "field_filter_kernels.cuh"

namespace fastseg {
namespace cuda {

constexpr int kFieldThreads = 256, kMeanThreads = 1024;
constexpr int kTransposeSide = 32, kTransposeRows = 8;

// (B, rows, columns) to (B, columns, rows): a block moves a tile through shared memory, so that
// neighbouring threads both read and write neighbours. Grid: tiles along a row, times tiles of rows
// and images.
template <typename S>
__global__ void __launch_bounds__(kTransposeSide* kTransposeRows)
    transpose_tiles(const S* __restrict__ from, int64_t rows, int64_t columns,
                    unsigned column_tiles, unsigned row_tiles, S* __restrict__ to) {
  FASTSEG_SHARED(S, tile, [kTransposeSide][kTransposeSide + 1]);
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

// One block an image: the mean of its N numbers, summed in one order.
__global__ void __launch_bounds__(kMeanThreads)
    mean_of_images(const float* __restrict__ values, int64_t points, float* __restrict__ means) {
  double sum[1] = {0};
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < points; i += kMeanThreads) {
    sum[0] += values[blockIdx.x * points + i];
  }
  block_sum<kMeanThreads>(sum);
  if (threadIdx.x == 0) means[blockIdx.x] = static_cast<float>(sum[0] / double(points));
}

// What the weights of a Gaussian kernel are made of, and they.
struct FieldWeights {
  const LatticeStatus* status;
  const float *barycentric, *mass, *means;
  const int32_t* vertices;
  const int64_t* place_of;
  FieldNormalization normalization;
  int64_t points, pixels;
  int corners;
  float alpha;
  FieldEdge* edges;
  float *slice_weights, *share;
};

// One thread a pixel: splat weights times what goes before the filter, slice weights times alpha
// and what comes after it. The norm is alpha times the filter of ones. What a pixel hears of itself
// is, between two vertices of its simplex that are n remainders apart, 2^-n + 2^-(D + 1 - n) of the
// product of their weights.
template <typename S>
__global__ void __launch_bounds__(kFieldThreads)
    normalize_weights(const __grid_constant__ FieldWeights w) {
  const int64_t pixel = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x;
  if (pixel >= w.pixels) return;
  constexpr float kSmallestNorm = 1e-20f;
  const int64_t begin = pixel * w.corners;
  const float* weight = w.barycentric + begin;
  float filtered = 0, own = 0;
  for (int i = 0; i < w.corners; ++i) {
    filtered += weight[i] * w.mass[w.vertices[begin + i]];
    own += (1 + ldexpf(1.0f, 1 - w.corners)) * weight[i] * weight[i];
    for (int j = 0; j < i; ++j) {
      const int apart = i - j;
      own += 2 * (ldexpf(1.0f, -apart) + ldexpf(1.0f, apart - w.corners)) * weight[i] * weight[j];
    }
  }
  const float norm = w.alpha * filtered;
  float before = 1, after = w.alpha;
  if (w.normalization == FieldNormalization::kMean) after /= w.alpha * w.means[pixel / w.points];
  if (w.normalization == FieldNormalization::kBefore) before = 1 / (norm + kSmallestNorm);
  if (w.normalization == FieldNormalization::kAfter) after /= norm + kSmallestNorm;
  if (w.normalization == FieldNormalization::kSymmetric) {
    before = 1 / sqrtf(norm + kSmallestNorm);
    after *= before;
  }
  if (is_refused(*w.status)) after = not_a_number<float>();
  for (int i = 0; i < w.corners; ++i) {
    const float mass = w.mass[w.vertices[begin + i]];
    w.edges[w.place_of[begin + i]] = {static_cast<uint32_t>(pixel),
                                      before * weight[i] * scale_of<S>(mass)};
    w.slice_weights[begin + i] = after * weight[i] * inverse_scale_of<S>(mass);
  }
  if (w.share) w.share[pixel] = before * after * own;
}

// One thread a vertex and label: lattice (M, L) times the transposed transform (L, L). The labels'
// transform and the pixels' filter may be done in either order, and vertices are fewer.
template <typename S>
__global__ void __launch_bounds__(kFieldThreads)
    transform_rows(const S* __restrict__ lattice, const float* __restrict__ transform,
                   const LatticeStatus* __restrict__ status, int64_t labels,
                   float* __restrict__ result) {
  const int64_t count = status->vertices * labels, step = int64_t{gridDim.x} * kFieldThreads;
  for (int64_t i = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x; i < count; i += step) {
    const int64_t vertex = row_of(i, labels), label = i - vertex * labels;
    float sum = 0;
    for (int64_t m = 0; m < labels; ++m) {
      sum += transform[label * labels + m] * widen(lattice[vertex * labels + m]);
    }
    result[i] = sum;
  }
}

// What an update reads of a Gaussian kernel.
template <typename S>
struct FieldMessage {
  const S* lattice;          // (M, L), blurred
  const float* transformed;  // the same times a dense transform, or null
  const int32_t* vertices;
  const float *slice_weights, *share, *transform;
  int64_t transform_size;
  int corners;

  // To one label of a pixel, of which `row` (L) is the present distribution.
  __device__ __forceinline__ float to(int64_t pixel, int64_t label, int64_t labels,
                                      const S* row) const {
    const int32_t* vertex = vertices + pixel * corners;
    const float* weight = slice_weights + pixel * corners;
    float sum = 0;
    if (transformed) {
#pragma unroll 3
      for (int k = 0; k < corners; ++k) sum += weight[k] * transformed[vertex[k] * labels + label];
      if (!share) return sum;
      float own = 0;
      for (int64_t m = 0; m < labels; ++m) own += transform[label * labels + m] * widen(row[m]);
      return sum - share[pixel] * own;
    }
#pragma unroll 3
    for (int k = 0; k < corners; ++k) sum += weight[k] * widen(lattice[vertex[k] * labels + label]);
    if (share) sum -= share[pixel] * widen(row[label]);
    return transform[transform_size == 1 ? 0 : label] * sum;
  }
};

template <typename S>
struct FieldMessages {
  int count;
  FieldMessage<S> of[kFusedKernels];
};

// Logits are -energy + messages, or `base` + messages where a pass before this one wrote it. The
// last pass writes their softmax; `logits` takes those that do not fit into the threads' registers,
// and may be `result`.
template <typename S>
struct FieldUpdate {
  const S *energy, *q;
  const float* base;
  int64_t pixels, labels;
  bool last;
  float* logits;
  S* result;
  unsigned long long* unusable;  // becomes 1 for a distribution that is none; may be null
  FieldMessages<S> messages;

  __device__ __forceinline__ float logit(int64_t pixel, int64_t label) const {
    const int64_t at = pixel * labels + label;
    float sum = base ? base[at] : -widen(energy[at]);
    for (int k = 0; k < messages.count; ++k) {
      sum += messages.of[k].to(pixel, label, labels, q + pixel * labels);
    }
    return sum;
  }
};

// kLanes threads own a pixel, each of them every kLanes-th label, whose rows lie side by side.
template <typename S, int kLanes>
__global__ void __launch_bounds__(kFieldThreads)
    update_pixels(const __grid_constant__ FieldUpdate<S> update) {
  const int lane = threadIdx.x % kLanes;
  const int64_t pixel = int64_t{blockIdx.x} * (kFieldThreads / kLanes) + threadIdx.x / kLanes;
  if (pixel >= update.pixels) return;  // all lanes of it
  const unsigned first_lane = threadIdx.x % 32 / kLanes * kLanes;
  const unsigned group = (kLanes == 32 ? 0xffffffffu : (1u << kLanes % 32) - 1) << first_lane;
  const bool in_registers = update.labels <= kLanes && update.last;
  float* logits = update.logits + pixel * update.labels;
  OnlineSoftmax<float> softmax;
  float own = 0;
  for (int64_t label = lane; label < update.labels; label += kLanes) {
    own = update.logit(pixel, label);
    if (!in_registers) logits[label] = own;
    softmax.add(own);
  }
  if (!update.last) return;
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    const float largest = __shfl_xor_sync(group, softmax.largest, lanes, kLanes);
    const float sum = __shfl_xor_sync(group, softmax.sum, lanes, kLanes);
    softmax.merge(largest, sum);
  }
  softmax.finish();
  if (update.unusable && softmax.sum != softmax.sum) atomicMax(update.unusable, 1ull);
  const float inverse = 1 / softmax.sum;
  S* to = update.result + pixel * update.labels;
  for (int64_t label = lane; label < update.labels; label += kLanes) {
    const float logit = in_registers ? own : logits[label];
    narrow(exp_of(logit - softmax.largest) * inverse, to[label]);
  }
}

// Transforms of so many Gaussian kernels, of which `unusable` tells those that are not finite.
struct FieldTransforms {
  int count;
  const float* values[kFusedKernels];
  int64_t sizes[kFusedKernels];
  unsigned long long* unusable;
};

__global__ void __launch_bounds__(kFieldThreads)
    find_not_finite(const __grid_constant__ FieldTransforms transforms) {
  for (int k = 0; k < transforms.count; ++k) {
    const float* values = transforms.values[k];
    for (int64_t i = int64_t{blockIdx.x} * kFieldThreads + threadIdx.x; i < transforms.sizes[k];
         i += int64_t{gridDim.x} * kFieldThreads) {
      if (!(values[i] - values[i] == 0)) atomicMax(&transforms.unusable[k], 1ull);
    }
  }
}

}  // namespace cuda
}  // namespace fastseg
