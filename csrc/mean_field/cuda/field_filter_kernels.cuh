#pragma once

#include <cstdint>

#include "../../permutohedral/cuda/permutohedral_kernels.cuh"
#include "../../permutohedral/cuda/vertex_key.cuh"
#include "mean_field_cuda.h"

// Splat and blur of an update, of several Gaussian kernels in one launch. How many vertices a
// lattice has is known on the device; threads take turns.
namespace fastseg {
namespace cuda {

constexpr int kFusedKernels = 4;  // Gaussian kernels of one launch

// Rows that are stored in half precision are multiples of a power of two, by which the vertex's
// blurred splat of ones becomes about 2^10: no sum overflows, and few underflow.
__device__ __forceinline__ int scale_exponent(float mass) {
  const int exponent = 2 * 127 + 10 - (__float_as_int(mass) >> 23 & 0xff);
  return exponent > 253 ? 253 : exponent < 1 ? 1 : exponent;
}
template <typename S>
__device__ __forceinline__ float scale_of(float mass) {
  return sizeof(S) == 4 ? 1.0f : __int_as_float(scale_exponent(mass) << 23);
}
template <typename S>
__device__ __forceinline__ float inverse_scale_of(float mass) {
  return sizeof(S) == 4 ? 1.0f : __int_as_float((254 - scale_exponent(mass)) << 23);
}

// What the kernels read of one lattice.
struct FieldLattice {
  const LatticeStatus* status;
  const int64_t *segments, *contributors;
  const int32_t* members;
  const float* barycentric;
  const FieldEdge* edges;
  const float* mass;              // null while it is made
  const int32_t *first, *second;  // pairs of neighbours along the axes of a blur
  int64_t contributions;
  float* tiles;
  const void* from;
  void* to;
};

struct FieldLattices {
  int count;
  FieldLattice of[kFusedKernels];
};

// The row and channel that number i is, of the rows of all lattices; false beyond the last.
struct FieldPlace {
  int lattice = 0;
  int64_t row = 0, channel = 0;
  bool found = false;

  template <typename RowsOf>
  __device__ __forceinline__ FieldPlace(const FieldLattices& lattices, int64_t i, int64_t channels,
                                        RowsOf rows_of) {
    for (; lattice < lattices.count; ++lattice) {
      const int64_t numbers = rows_of(lattices.of[lattice]) * channels;
      if (i < numbers) {
        row = row_of(i, channels);
        channel = i - row * channels;
        found = true;
        return;
      }
      i -= numbers;
    }
  }
  __device__ explicit operator bool() const { return found; }
};
__device__ __forceinline__ int64_t vertices_of(const FieldLattice& lattice) {
  return lattice.status->vertices;
}
__device__ __forceinline__ int64_t pieces_of(const FieldLattice& lattice) {
  return vertices_of(lattice) + piece_tiles(lattice.contributions);
}

// One thread a channel and vertex, for its first piece, or tile, for a later one. Without q the
// splat of ones, by the barycentric weights.
template <typename S>
__global__ void __launch_bounds__(kFilterThreads)
    splat_rows(const __grid_constant__ FieldLattices lattices, const S* __restrict__ q,
               int64_t channels) {
  const int64_t step = int64_t{gridDim.x} * kFilterThreads;
  for (int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;; i += step) {
    const FieldPlace at(lattices, i, channels, pieces_of);
    if (!at) return;
    const FieldLattice& lattice = lattices.of[at.lattice];
    const int64_t count = vertices_of(lattice), tile = at.row - count;
    Piece piece = {0, 0};
    if (tile < 0) {
      piece = first_piece(lattice.segments[at.row], lattice.segments[at.row + 1]);
    } else if (tile * kPiece < lattice.contributions) {
      const int64_t vertex = lattice.members[tile * kPiece];
      piece = later_piece(tile, lattice.segments[vertex], lattice.segments[vertex + 1]);
    }
    const float sum = sum_of_piece<float>(piece, [&](int64_t s) {
      if (!q) return lattice.barycentric[lattice.contributors[s]];
      const FieldEdge edge = lattice.edges[s];
      return edge.weight * widen(q[int64_t{edge.pixel} * channels + at.channel]);
    });
    if (tile < 0) {
      narrow(sum, static_cast<S*>(lattice.to)[at.row * channels + at.channel]);
    } else if (piece.begin < piece.end) {
      lattice.tiles[tile * channels + at.channel] = sum;
    }
  }
}

// One thread a vertex and channel: adds the later pieces to the first, where there are some.
template <typename S>
__global__ void __launch_bounds__(kFilterThreads)
    join_rows(const __grid_constant__ FieldLattices lattices, int64_t channels) {
  const int64_t step = int64_t{gridDim.x} * kFilterThreads;
  for (int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;; i += step) {
    const FieldPlace at(lattices, i, channels, vertices_of);
    if (!at) return;
    const FieldLattice& lattice = lattices.of[at.lattice];
    const int64_t begin = lattice.segments[at.row], end = lattice.segments[at.row + 1];
    if (end - begin <= kPiece) continue;
    S& sum = static_cast<S*>(lattice.to)[at.row * channels + at.channel];
    narrow(joined_pieces<float>(
               widen(sum), begin, end,
               [&](int64_t tile) { return lattice.tiles[tile * channels + at.channel]; }),
           sum);
  }
}

// One thread a vertex and channel, along one axis or two.
template <typename S>
__global__ void __launch_bounds__(kFilterThreads)
    blur_rows(const __grid_constant__ FieldLattices lattices, int64_t channels) {
  const int64_t step = int64_t{gridDim.x} * kFilterThreads;
  for (int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;; i += step) {
    const FieldPlace at(lattices, i, channels, vertices_of);
    if (!at) return;
    const FieldLattice& lattice = lattices.of[at.lattice];
    const auto* from = static_cast<const S*>(lattice.from);
    const auto read = [&](int64_t vertex) -> float {
      if (vertex < 0) return 0;
      const float value = widen(from[vertex * channels + at.channel]);
      return sizeof(S) == 4 ? value : value * inverse_scale_of<S>(lattice.mass[vertex]);
    };
    float sum = blurred<float>(at.row, lattice.first, lattice.second, vertices_of(lattice), read);
    if (sizeof(S) != 4) sum *= scale_of<S>(lattice.mass[at.row]);
    narrow(sum, static_cast<S*>(lattice.to)[at.row * channels + at.channel]);
  }
}

}  // namespace cuda
}  // namespace fastseg
