#pragma once

#include <cstdint>

#include "../common/check.h"
#include "../common/parallel.h"

// The permutohedral lattice of Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
// Permutohedral Lattice" (2010): contract between the kernels and the doors that lead to them.
//
// Letters: N points, D feature dimensions, M lattice vertices, C channels.
namespace fastseg {

constexpr int kMaxFeatureDims = 16;

// A lattice of a whole batch while it is being built: the number of vertices is known only when
// the points have been placed, so the door asks for it, allocates, and has the arrays written.
class LatticeBuild {
 public:
  virtual ~LatticeBuild() = default;
  virtual int64_t vertex_count() const = 0;  // M, over the whole batch

  struct Arrays {
    int32_t* vertices;      // (B, N, D + 1), in [0, M): the simplex around each point
    void* barycentric;      // (B, N, D + 1), dtype of the features; sums to one per point
    int8_t* rank;           // (B, N, D + 1): which coordinate of the point was r-th largest
    int32_t* neighbours;    // (D + 1, M, 2), in [0, M) or -1: one step back and forward per axis
    int64_t* segments;      // (M + 1): where a vertex's contributions begin in `contributors`
    int64_t* contributors;  // (B * N * (D + 1)): flat indices into `vertices`, ascending per vertex
  };
  virtual void write(const Arrays& arrays, Parallel parallel) const = 0;
};

// CPU entry points of one instruction set. Layout beside each pointer; `double_precision` says
// whether void* is double* or float*.
struct PermutohedralKernels {
  // features (B, D, N), standard deviation one. Caller deletes *build. The error is a ValueError
  // for features that are not finite or whose lattice coordinates would leave int32.
  Error (*build)(const void* features, bool double_precision, int64_t batch, int64_t dims,
                 int64_t points, Parallel parallel, LatticeBuild** build);
  // lattice (M, C) = sum over contributions of barycentric * values; values (B * N, C).
  void (*splat)(const void* values, const void* barycentric, const int64_t* segments,
                const int64_t* contributors, bool double_precision, int64_t dims, int64_t vertices,
                int64_t channels, Parallel parallel, void* lattice);
  // In place over lattice (M, C): along each axis v + (previous + next) / 2, axis 0 first, or
  // last axis first where `reverse` (the transpose).
  void (*blur)(void* lattice, const int32_t* neighbours, bool double_precision, int64_t dims,
               int64_t vertices, int64_t channels, bool reverse, Parallel parallel);
  // values (P, C) = sum over the simplex of barycentric * lattice; P = B * N points.
  void (*slice)(const void* lattice, const int32_t* vertices, const void* barycentric,
                bool double_precision, int64_t dims, int64_t points, int64_t channels,
                Parallel parallel, void* values);
  // products (P, D + 1) = <lattice[vertices], values>: the derivative of splat and slice with
  // respect to the barycentric weights.
  void (*vertex_products)(const void* lattice, const void* values, const int32_t* vertices,
                          bool double_precision, int64_t dims, int64_t points, int64_t channels,
                          Parallel parallel, void* products);
};

}  // namespace fastseg
