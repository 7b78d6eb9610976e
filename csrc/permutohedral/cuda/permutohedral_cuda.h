#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../../common/allocate.h"

// The permutohedral lattice on the GPU: contract between the launchers and the door that leads to
// them. Letters and layouts as in ../permutohedral.h; all pointers are to memory of the current
// device, all work is put on `stream`. Results are the same bits in every run.
namespace fastseg {
namespace cuda {

// What the host must know before it can allocate the rest, and refuse.
struct LatticeStatus {
  int64_t vertices;     // M
  int64_t bad_feature;  // a feature that is not finite, or 17
  double largest;       // magnitude of the lattice coordinates
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
  int64_t* slots;      // (table_size): the first contribution of a vertex, or -1
  int64_t* number_of;  // (B N (D + 1)): how many vertices are met before a contribution
  int64_t table_size;  // a power of two
  int64_t contributions() const { return batch * points * (dims + 1); }
};

// Places the points and numbers the vertices, in the order in which they are met.
cudaError_t place_lattice(LatticePlan* plan, const Allocate& allocate, cudaStream_t stream);
// neighbours (D + 1, M, 2), segments (M + 1), contributors (B N (D + 1)).
cudaError_t link_lattice(const LatticePlan& plan, int64_t vertices, const Allocate& allocate,
                         cudaStream_t stream, int32_t* neighbours, int64_t* segments,
                         int64_t* contributors);

// These trust no index: one that is out of range gives NaN.
cudaError_t splat(const void* values, const void* barycentric, const int64_t* segments,
                  const int64_t* contributors, int64_t contributions, bool double_precision,
                  int64_t dims, int64_t vertices, int64_t channels, cudaStream_t stream,
                  void* lattice);
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

}  // namespace cuda
}  // namespace fastseg
