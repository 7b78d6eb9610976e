#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../../common/allocate.h"

// The permutohedral lattice on the GPU: contract between the launchers and the door that leads to
// them. Letters and layouts as in ../permutohedral.h; all pointers are to memory of the current
// device, all work is put on `stream`. Results are the same bits in every run.
namespace fastseg {
namespace cuda {

// What the host must know before it can allocate the rest, and refuse. It begins with zeros.
struct LatticeStatus {
  int64_t vertices;   // M
  uint64_t unusable;  // 0, or 17 - d for the first feature d that is not finite
  double largest;     // magnitude of the lattice coordinates
};

// A slot of the hash table: a vertex, and the first contribution to it.
struct alignas(16) LatticeSlot {
  unsigned long long key, first;
};

// A lattice between its two halves.
struct LatticePlan {
  const void* features;  // (B, D, N)
  bool double_precision;
  int64_t batch, dims, points;
  int32_t* vertices;  // (B, N, D + 1), as are barycentric and rank
  void* barycentric;
  int8_t* rank;
  LatticeStatus* status;  // on the device

  // Scratch of the first half that the second reads.
  int32_t* cells;      // (B, N, D + 1)
  LatticeSlot* table;  // (table_size), a power of two
  int32_t* numbers;    // (table_size): of the vertices in the table
  int64_t* met;        // (M): a vertex's first contribution
  void* sort_space;
  int64_t table_size;
  int64_t contributions() const { return batch * points * (dims + 1); }
};

// Places the points and numbers the vertices, in the order in which they are met. All at once, so
// that what must begin as zeros does so with one operation; `*statuses` are those of the plans, one
// after the other, and then `extra` words of zeros, which `allocate` gives; all else is `scratch`,
// for link_lattice, too, and not read after it.
cudaError_t place_lattices(LatticePlan* const* plans, int count, int64_t extra,
                           const Allocate& allocate, const Allocate& scratch, cudaStream_t stream,
                           LatticeStatus** statuses);

// What the second half writes, for a lattice of `capacity` vertices or fewer.
struct LatticeLinks {
  int64_t capacity;
  int32_t* neighbours;    // (D + 1, capacity, 2)
  int64_t* segments;      // (capacity + 1)
  int64_t* contributors;  // (B N (D + 1))
  int32_t* members;       // (B N (D + 1)): the vertex of each contributor
  int64_t* place_of;      // (B N (D + 1)): the inverse of contributors, or null
};
cudaError_t link_lattice(const LatticePlan& plan, const Allocate& scratch, cudaStream_t stream,
                         const LatticeLinks& links);

// These trust no index: one that is out of range gives NaN.
struct SplatArrays {
  const void *values, *barycentric;
  const int32_t* vertices;
  const int64_t *segments, *contributors;
};
cudaError_t splat(const SplatArrays& arrays, bool double_precision, int64_t dims,
                  int64_t contributions, int64_t vertices, int64_t channels,
                  const Allocate& allocate, cudaStream_t stream, void* lattice);
// From `lattice` through `other` (both are overwritten); returns in *result which of them holds
// the blurred one.
cudaError_t blur(void* lattice, void* other, const int32_t* neighbours, bool double_precision,
                 int64_t dims, int64_t vertices, int64_t channels, bool reverse,
                 cudaStream_t stream, void** result);
cudaError_t slice(const void* lattice, const int32_t* vertices, const void* barycentric,
                  bool double_precision, int64_t dims, int64_t points, int64_t vertex_count,
                  int64_t channels, cudaStream_t stream, void* values);
cudaError_t vertex_products(const void* lattice, const void* values, const int32_t* vertices,
                            bool double_precision, int64_t dims, int64_t points,
                            int64_t vertex_count, int64_t channels, cudaStream_t stream,
                            void* products);

// sums (B, C) of values (B, N, C), at least one of each.
cudaError_t sum_points(const void* values, bool double_precision, int64_t batch, int64_t points,
                       int64_t channels, const Allocate& allocate, cudaStream_t stream, void* sums);

}  // namespace cuda
}  // namespace fastseg
