#pragma once

#include <cstdint>

#include "../common/check.h"
#include "permutohedral.h"

// What the operators of the permutohedral lattice ask of their arguments, whatever door these
// come through. Letters as in permutohedral.h.
namespace fastseg {

// features (B, D, *spatial), at least one point.
Error check_permutohedral_lattice(const ArgumentInfo& features);

struct SplatArguments {
  ArgumentInfo values;        // (B, N, C)
  ArgumentInfo vertices;      // (B, N, D + 1) int32
  ArgumentInfo barycentric;   // (B, N, D + 1), dtype of values
  ArgumentInfo segments;      // (M + 1,) int64
  ArgumentInfo contributors;  // (B * N * (D + 1),) int64
};
Error check_permutohedral_splat(const SplatArguments& arguments);

// lattice (M, C); neighbours (D + 1, M, 2) int32.
Error check_permutohedral_blur(const ArgumentInfo& lattice, const ArgumentInfo& neighbours);

// lattice (M, C); vertices (B, N, D + 1) int32; barycentric (B, N, D + 1), dtype of lattice.
Error check_permutohedral_slice(const ArgumentInfo& lattice, const ArgumentInfo& vertices,
                                const ArgumentInfo& barycentric);

// lattice (M, C); values (B, N, C), dtype of lattice; vertices (B, N, D + 1) int32.
Error check_permutohedral_vertex_products(const ArgumentInfo& lattice, const ArgumentInfo& values,
                                          const ArgumentInfo& vertices);

// values (B, N, C), at least one point.
Error check_permutohedral_sum(const ArgumentInfo& values);

// Every index in [low, high). One read of the indices: the kernels, which trust them, read them
// too, so that a wrong index would otherwise read or write memory that is not theirs.
Error check_indices(const char* op, const char* name, const int32_t* indices, int64_t count,
                    int64_t low, int64_t high, Parallel parallel);
Error check_indices(const char* op, const char* name, const int64_t* indices, int64_t count,
                    int64_t low, int64_t high, Parallel parallel);

// segments (M + 1): from 0 to `contributors`, never falling.
Error check_segments(const char* op, const int64_t* segments, int64_t vertices,
                     int64_t contributors);

}  // namespace fastseg
