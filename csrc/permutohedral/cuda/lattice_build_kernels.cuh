#pragma once

#include <cstdint>

#include "../../common/launch.cuh"
#include "../simplex_math.h"
#include "permutohedral_cuda.h"

// The lattice of a whole batch: points are placed, their vertices entered into a hash table of
// contributions, and numbered by their first contribution. Whichever thread enters a vertex, its
// first contribution is the least of all: numbers do not depend on the order of the threads.
namespace fastseg {
namespace cuda {

constexpr int kBuildThreads = 128;
constexpr int kLargestDims = 16;
constexpr int64_t kNobody = -1;

struct FeatureScales {
  double of[kLargestDims];
};

// Arithmetic of one point in double precision, whatever the features are: of a few operations.
struct RoundNearest {
  __device__ double operator()(double x) const { return rint(x); }
};
struct ToInteger {
  __device__ int32_t operator()(double x) const { return static_cast<int32_t>(x); }
};
struct ToReal {
  __device__ double operator()(int32_t x) const { return static_cast<double>(x); }
};

__device__ __forceinline__ void raise_largest(double* largest, double magnitude) {
  // Of numbers that are not negative the bits order as the numbers do.
  atomicMax(reinterpret_cast<unsigned long long*>(largest),
            static_cast<unsigned long long>(__double_as_longlong(magnitude)));
}

__global__ void __launch_bounds__(kBuildThreads) begin_status(LatticeStatus* __restrict__ status) {
  if (threadIdx.x == 0) *status = {0, kLargestDims + 1, 0.0};
}

// One thread a point; neighbouring threads read neighbouring features.
template <typename Real, int kDims>
__global__ void __launch_bounds__(kBuildThreads)
    place_points(const Real* __restrict__ features, FeatureScales scales, int64_t batch,
                 int64_t points, int32_t* __restrict__ cells, Real* __restrict__ barycentric,
                 int8_t* __restrict__ rank, LatticeStatus* __restrict__ status) {
  constexpr int kCorners = kDims + 1;
  const int64_t point = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (point >= batch * points) return;
  const int64_t image = point / points;
  const Real* feature = features + image * kDims * points + (point - image * points);
  double scaled[kDims], elevated[kCorners], weight[kCorners];
  int32_t cell[kCorners], place[kCorners];
  for (int d = 0; d < kDims; ++d) {
    scaled[d] = static_cast<double>(feature[d * points]) * scales.of[d];
    if (!(fabs(scaled[d]) <= 1e300)) {
      atomicMin(reinterpret_cast<unsigned long long*>(&status->bad_feature),
                static_cast<unsigned long long>(d));
      scaled[d] = 0;
    }
  }
  elevate<double, double, kDims>(scaled, elevated);
  double largest = 0;
  for (int i = 0; i < kCorners; ++i) largest = fmax(largest, fabs(elevated[i]));
  raise_largest(&status->largest, largest);
  if (!(largest < 2147480000.0)) {  // the host refuses them; what follows must not overflow
    for (int i = 0; i < kCorners; ++i) elevated[i] = 0;
  }
  enclosing_simplex<double, double, int32_t, kDims>(elevated, cell, place, weight, RoundNearest(),
                                                    ToInteger(), ToReal());
  for (int i = 0; i < kCorners; ++i) {
    cells[point * kCorners + i] = cell[i];
    rank[point * kCorners + i] = static_cast<int8_t>(place[i]);
    barycentric[point * kCorners + i] = static_cast<Real>(weight[i]);
  }
}

// The vertices that the points touch, by contribution: that of remainder k of point p is number
// p (D + 1) + k.
struct Vertices {
  const int32_t* cells;
  const int8_t* rank;
  int64_t points;  // of an image
  int dims;

  __device__ int64_t image(int64_t contribution) const {
    return contribution / (dims + 1) / points;
  }
  // Coordinate i, of dims + 1.
  __device__ int32_t coordinate(int64_t contribution, int i) const {
    const int corners = dims + 1;
    const int64_t point = contribution / corners;
    const int remainder = static_cast<int>(contribution - point * corners);
    const int64_t at = point * corners + i;
    const int32_t cell = cells[at] - (rank[at] > dims - remainder ? 1 : 0);
    return cell * corners + remainder;
  }
};

// A vertex: that of a contribution, or its neighbour along `axis`, one step back or forward.
struct Sought {
  int64_t contribution;
  int axis;  // -1: itself
  int step;  // what is added to the other coordinates
  __device__ int32_t coordinate(const Vertices& vertices, int i) const {
    const int32_t own = vertices.coordinate(contribution, i);
    return axis < 0 ? own : i == axis ? own - step * vertices.dims : own + step;
  }
};

__device__ inline uint64_t hash_of(const Vertices& vertices, const Sought& sought) {
  uint64_t hash = static_cast<uint64_t>(vertices.image(sought.contribution)) + 1;
  for (int i = 0; i < vertices.dims; ++i) {  // the last coordinate follows from the others
    hash ^= static_cast<uint32_t>(sought.coordinate(vertices, i));
    hash *= 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 29;
  }
  return hash;
}

__device__ inline bool is_vertex_of(const Vertices& vertices, const Sought& sought,
                                    int64_t contribution) {
  if (vertices.image(contribution) != vertices.image(sought.contribution)) return false;
  for (int i = 0; i < vertices.dims; ++i) {
    if (vertices.coordinate(contribution, i) != sought.coordinate(vertices, i)) return false;
  }
  return true;
}

__global__ void __launch_bounds__(kBuildThreads)
    clear_slots(int64_t* __restrict__ owners, int64_t* __restrict__ slots, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (i >= count) return;
  owners[i] = kNobody;
  slots[i] = kNobody;
}

// One thread a contribution. A slot belongs to whoever comes first, and to all of its vertex;
// slots[...] gets the least of them. More slots than contributions: the search ends.
__global__ void __launch_bounds__(kBuildThreads)
    enter_vertices(Vertices vertices, int64_t contributions, int64_t table_size, int64_t* owners,
                   int64_t* slots, int64_t* __restrict__ slot_of) {
  const int64_t own = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (own >= contributions) return;
  const Sought sought = {own, -1, 0};
  const uint64_t mask = static_cast<uint64_t>(table_size) - 1;
  uint64_t slot = hash_of(vertices, sought) & mask;
  for (;; slot = (slot + 1) & mask) {
    const int64_t owner = static_cast<int64_t>(
        atomicCAS(reinterpret_cast<unsigned long long*>(&owners[slot]),
                  static_cast<unsigned long long>(kNobody), static_cast<unsigned long long>(own)));
    if (owner == kNobody || is_vertex_of(vertices, sought, owner)) break;
  }
  atomicMin(reinterpret_cast<unsigned long long*>(&slots[slot]),  // nobody is the largest of all
            static_cast<unsigned long long>(own));
  slot_of[own] = static_cast<int64_t>(slot);
}

// first[i]: whether contribution i is its vertex's first. In place, slot_of becomes the vertex's
// first contribution.
__global__ void __launch_bounds__(kBuildThreads)
    mark_first(const int64_t* __restrict__ slots, int64_t contributions,
               int64_t* __restrict__ slot_of, int64_t* __restrict__ first) {
  const int64_t i = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (i >= contributions) return;
  slot_of[i] = slots[slot_of[i]];
  first[i] = slot_of[i] == i;
}

__global__ void __launch_bounds__(kBuildThreads)
    number_vertices(const int64_t* __restrict__ first_of, const int64_t* __restrict__ number_of,
                    const int64_t* __restrict__ total, int64_t contributions,
                    int32_t* __restrict__ vertices, LatticeStatus* __restrict__ status) {
  const int64_t i = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (i == 0) status->vertices = *total;
  if (i < contributions) vertices[i] = static_cast<int32_t>(number_of[first_of[i]]);
}

// One thread an axis and contribution; those that are their vertex's first look for both
// neighbours of it.
__global__ void __launch_bounds__(kBuildThreads, 4)
    find_neighbours(Vertices vertices, const int32_t* __restrict__ numbers,
                    const int64_t* __restrict__ slots, const int64_t* __restrict__ number_of,
                    int64_t contributions, int64_t table_size, int64_t count,
                    int32_t* __restrict__ neighbours) {
  const int64_t i = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  const int64_t own = i % contributions;
  const int axis = static_cast<int>(i / contributions);
  if (axis > vertices.dims) return;
  const bool first =
      own + 1 < contributions ? number_of[own + 1] > number_of[own] : number_of[own] == count - 1;
  if (!first) return;
  const uint64_t mask = static_cast<uint64_t>(table_size) - 1;
#pragma unroll 1
  for (int side = 0; side < 2; ++side) {
    const Sought sought = {own, axis, side == 0 ? 1 : -1};  // forward lowers all but one
    int32_t found = -1;
    for (uint64_t slot = hash_of(vertices, sought) & mask;; slot = (slot + 1) & mask) {
      const int64_t contribution = slots[slot];
      if (contribution == kNobody) break;
      if (is_vertex_of(vertices, sought, contribution)) {
        found = numbers[contribution];
        break;
      }
    }
    neighbours[(axis * count + numbers[own]) * 2 + side] = found;
  }
}

// segments[v]: where vertex v begins among the sorted numbers; every vertex is there.
__global__ void __launch_bounds__(kBuildThreads)
    find_segments(const int32_t* __restrict__ sorted, int64_t contributions, int64_t count,
                  int64_t* __restrict__ segments) {
  const int64_t i = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (i == 0) segments[count] = contributions;
  if (i < contributions && (i == 0 || sorted[i] != sorted[i - 1])) segments[sorted[i]] = i;
}

}  // namespace cuda
}  // namespace fastseg
