#pragma once

#include <cstdint>

#include "../../common/storage.cuh"

// Splat, blur and slice over the lattice's arrays, and the derivative's inner products. Rows of
// (., C) arrays lie side by side, and neighbouring threads own neighbouring channels.
namespace fastseg {
namespace cuda {

constexpr int kFilterThreads = 256;

// One thread a vertex and channel; adds the contributions up in their order.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    splat_segments(const Real* __restrict__ values, const Real* __restrict__ barycentric,
                   const int64_t* __restrict__ segments, const int64_t* __restrict__ contributors,
                   int64_t contributions, int corners, int64_t vertices, int64_t channels,
                   Real* __restrict__ lattice) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  if (i >= vertices * channels) return;
  const int64_t vertex = i / channels, channel = i - vertex * channels;
  const int64_t begin = segments[vertex], end = segments[vertex + 1];
  Real sum = 0;
  if (begin < 0 || end > contributions)
    sum = not_a_number<Real>();
  else {
#pragma unroll 2
    for (int64_t s = begin; s < end; ++s) {
      const int64_t contributor = contributors[s];
      const bool known = contributor >= 0 && contributor < contributions;
      sum += known ? barycentric[contributor] * values[contributor / corners * channels + channel]
                   : not_a_number<Real>();
    }
  }
  lattice[i] = sum;
}

// One thread a vertex and channel, along one axis: v + (previous + next) / 2.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    blur_axis(const Real* __restrict__ from, const int32_t* __restrict__ pairs, int64_t vertices,
              int64_t channels, Real* __restrict__ to) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  if (i >= vertices * channels) return;
  const int64_t vertex = i / channels, channel = i - vertex * channels;
  const auto neighbour = [&](int side) -> Real {
    const int32_t other = pairs[2 * vertex + side];
    if (other >= vertices) return not_a_number<Real>();
    return other < 0 ? Real(0) : from[other * channels + channel];
  };
  to[i] = from[i] + Real(0.5) * (neighbour(0) + neighbour(1));
}

// One thread a point and channel.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    slice_points(const Real* __restrict__ lattice, const int32_t* __restrict__ vertices,
                 const Real* __restrict__ barycentric, int corners, int64_t points,
                 int64_t vertex_count, int64_t channels, Real* __restrict__ values) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  if (i >= points * channels) return;
  const int64_t point = i / channels, channel = i - point * channels;
  Real sum = 0;
  for (int k = 0; k < corners; ++k) {
    const int64_t vertex = vertices[point * corners + k];
    const bool known = vertex >= 0 && vertex < vertex_count;
    sum += known ? barycentric[point * corners + k] * lattice[vertex * channels + channel]
                 : not_a_number<Real>();
  }
  values[i] = sum;
}

// One thread a corner of a point's simplex: <lattice[vertex], values[point]>.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    multiply_vertices(const Real* __restrict__ lattice, const Real* __restrict__ values,
                      const int32_t* __restrict__ vertices, int corners, int64_t points,
                      int64_t vertex_count, int64_t channels, Real* __restrict__ products) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  if (i >= points * corners) return;
  const int64_t vertex = vertices[i];
  Real sum = 0;
  if (vertex < 0 || vertex >= vertex_count) {
    sum = not_a_number<Real>();
  } else {
    const Real *row = lattice + vertex * channels, *value = values + i / corners * channels;
    for (int64_t c = 0; c < channels; ++c) sum += row[c] * value[c];
  }
  products[i] = sum;
}

}  // namespace cuda
}  // namespace fastseg
