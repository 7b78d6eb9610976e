#pragma once

#include <cstdint>

#include "block.h"

// mma.sync with float32 accumulation, D = A B + C, in the fragments of the PTX ISA ("Matrix
// Fragments for mma.m16n8k16" and "... for mma.m16n8k8"): each lane holds part of every matrix.
// Products are exact and summed in the order of k; the hardware's order is its own.
namespace simt {

enum class Multiplicand { kHalf, kBFloat16, kTf32 };

// a (16, K), b (K, 8), c and d (16, 8); K is 16, or 8 for TF32. d may be c.
void mma(Multiplicand type, float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
         Location where);

// ldmatrix.x4: where lane 8 i + r brought the address of row r of matrix i, 16 bytes, each lane is
// told of every matrix where its 4 bytes lie; it reads them itself.
void find_matrices(const void* row, const uint32_t* from[4], Location where);

}  // namespace simt
