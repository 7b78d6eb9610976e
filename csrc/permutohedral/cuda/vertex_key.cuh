#pragma once

#include <cstdint>

#include "corners.cuh"
#include "permutohedral_cuda.h"

// Which vertex a contribution goes to, and which vertices are its neighbours. A vertex is its
// image, its remainder and the cells of all coordinates but the last, which follows from the
// others; see simplex_math.h. They fit into 63 bits unless the features spread far: then a
// contribution stands for its vertex, and vertices are compared coordinate by coordinate.
namespace fastseg {
namespace cuda {

constexpr int kLargestDims = 16;
constexpr unsigned long long kNobody = ~0ull;
constexpr double kLargestCoordinate = 2147480000.0;  // that the host takes

// The host refuses it, and nothing that it leads to must be used.
__device__ __forceinline__ bool is_refused(const LatticeStatus& status) {
  return status.unusable != 0 || !(status.largest < kLargestCoordinate);
}

// Vertices of a batch, by contribution: that of remainder k of point p is number p (D + 1) + k.
struct Vertices {
  const int32_t* cells;
  const int8_t* rank;
  int64_t batch, points;  // points of an image
  int dims;
  Corners corners;

  __device__ __forceinline__ int64_t image(int64_t contribution) const {
    return corners.point(contribution) / points;
  }
  __device__ __forceinline__ int remainder(int64_t contribution) const {
    return corners.remainder(contribution);
  }
  // Of coordinate i, i <= D.
  __device__ __forceinline__ int32_t cell(int64_t contribution, int i) const {
    const int64_t first = contribution - remainder(contribution);
    return cells[first + i] - (rank[first + i] > dims - remainder(contribution) ? 1 : 0);
  }
};

// Along `axis`, forward: the remainder rises by one and the axis's cell falls by one; from the last
// remainder it begins again, and all other cells rise by one.
__device__ __forceinline__ int neighbour_remainder(int remainder, int dims, bool forward) {
  if (forward) return remainder == dims ? 0 : remainder + 1;
  return remainder == 0 ? dims : remainder - 1;
}
__device__ __forceinline__ int neighbour_step(int remainder, int dims, bool forward, int axis,
                                              int i) {
  const bool wraps = remainder == (forward ? dims : 0);
  const int step = wraps ? (i == axis ? 0 : 1) : (i == axis ? -1 : 0);
  return forward ? step : -step;
}

__device__ __forceinline__ uint64_t mixed(uint64_t hash) {
  hash *= 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 29;
}

// Vertices as words.
struct PackedKeys {
  Vertices vertices;
  int bits;  // of a cell

  // Bits of a cell that all points' vertices and their neighbours fit in; 0 where keys do not.
  static __device__ int bits_for(const Vertices& vertices, double largest) {
    const double cells = 2 * (floor(largest / (vertices.dims + 1)) + 4);
    int bits = 1, others = 0;
    while (bits < 63 && cells > static_cast<double>(1ull << bits)) ++bits;
    while (others < 63 && vertices.batch * (vertices.dims + 1) > int64_t{1} << others) ++others;
    return vertices.dims * bits + others <= 63 ? bits : 0;
  }

  __device__ __forceinline__ uint64_t key(int64_t image, int remainder, int64_t contribution,
                                          int axis, bool forward) const {
    const int dims = vertices.dims;
    const int own = vertices.remainder(contribution);
    uint64_t word = static_cast<uint64_t>(image * (dims + 1) + remainder);
    for (int i = 0; i < dims; ++i) {
      int64_t cell = vertices.cell(contribution, i) + (int64_t{1} << (bits - 1));
      if (axis >= 0) cell += neighbour_step(own, dims, forward, axis, i);
      word = word << bits | static_cast<uint64_t>(cell);
    }
    return word;
  }
  __device__ __forceinline__ uint64_t own(int64_t contribution) const {
    return key(vertices.image(contribution), vertices.remainder(contribution), contribution, -1,
               true);
  }
  __device__ __forceinline__ uint64_t neighbour(int64_t contribution, int axis,
                                                bool forward) const {
    const int remainder = vertices.remainder(contribution);
    return key(vertices.image(contribution), neighbour_remainder(remainder, vertices.dims, forward),
               contribution, axis, forward);
  }
};

// A vertex of any coordinates: that of a contribution, or its neighbour along `axis`.
struct WideKey {
  int64_t contribution;
  int axis;  // -1: itself
  bool forward;

  __device__ __forceinline__ int remainder(const Vertices& vertices) const {
    const int own = vertices.remainder(contribution);
    return axis < 0 ? own : neighbour_remainder(own, vertices.dims, forward);
  }
  __device__ __forceinline__ int32_t cell(const Vertices& vertices, int i) const {
    const int32_t own = vertices.cell(contribution, i);
    if (axis < 0) return own;
    return own + neighbour_step(vertices.remainder(contribution), vertices.dims, forward, axis, i);
  }
  __device__ uint64_t hash(const Vertices& vertices) const {
    uint64_t hash = static_cast<uint64_t>(vertices.image(contribution)) * (vertices.dims + 1);
    hash = mixed(hash + remainder(vertices) + 1);
    for (int i = 0; i < vertices.dims; ++i) {
      hash = mixed(hash ^ static_cast<uint32_t>(cell(vertices, i)));
    }
    return hash;
  }
  __device__ bool is_vertex_of(const Vertices& vertices, int64_t other) const {
    if (vertices.image(other) != vertices.image(contribution)) return false;
    if (vertices.remainder(other) != remainder(vertices)) return false;
    for (int i = 0; i < vertices.dims; ++i) {
      if (vertices.cell(other, i) != cell(vertices, i)) return false;
    }
    return true;
  }
};

}  // namespace cuda
}  // namespace fastseg
