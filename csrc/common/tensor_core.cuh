#pragma once

#include <cstdint>

#include "launch.cuh"

// What tensor cores need: asynchronous copies to shared memory, matrices from there to registers,
// and the products, D = A B + D with A (16, K) and B (K, 8) in the PTX ISA's fragments. Of every
// type a row of K numbers is 32 bytes: 16 of half precision, 8 of TF32.
namespace fastseg {

// Begins a copy of 16 bytes to shared memory, or of as many zeros; `from` is then not read.
__device__ __forceinline__ void copy_async(void* shared, const void* from, bool read) {
#if defined(FASTSEG_SIMT)
  __pipeline_memcpy_async(shared, from, 16, read ? 0 : 16);
#else
  // As a number in a register: __pipeline_memcpy_async would branch.
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = read ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
#endif
}

// Four matrices of eight rows of 16 bytes; lane 8 i + r brings the address of row r of matrix i.
// Each lane receives of every matrix the 4 bytes lane % 4 of row lane / 4: the fragments of A and
// B, for half precision and TF32 alike.
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&parts)[4]) {
#if defined(FASTSEG_SIMT)
  const uint32_t* from[4];
  simt::find_matrices(row, from, simt::Location::here());
  for (int i = 0; i < 4; ++i) parts[i] = *from[i];
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(address)
               : "memory");
#endif
}

struct HalfProduct {};
struct BFloat16Product {};
struct Tf32Product {};

#if defined(FASTSEG_SIMT)

template <typename Product>
constexpr simt::Multiplicand multiplicand();
template <>
constexpr simt::Multiplicand multiplicand<HalfProduct>() {
  return simt::Multiplicand::kHalf;
}
template <>
constexpr simt::Multiplicand multiplicand<BFloat16Product>() {
  return simt::Multiplicand::kBFloat16;
}
template <>
constexpr simt::Multiplicand multiplicand<Tf32Product>() {
  return simt::Multiplicand::kTf32;
}

template <typename Product>
__device__ __forceinline__ void multiply_add(Product, const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, float (&d)[4]) {
  const uint32_t b[2] = {b0, b1};
  simt::mma(multiplicand<Product>(), d, a, b, d, simt::Location::here());
}

#else

#define FASTSEG_MULTIPLY_ADD(Product, shape, types)                                         \
  __device__ __forceinline__ void multiply_add(Product, const uint32_t(&a)[4], uint32_t b0, \
                                               uint32_t b1, float(&d)[4]) {                 \
    asm("mma.sync.aligned." shape ".row.col.f32." types                                     \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}"                                           \
        ", {%8, %9}, {%0, %1, %2, %3};"                                                     \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                    \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                    \
  }
FASTSEG_MULTIPLY_ADD(HalfProduct, "m16n8k16", "f16.f16")
FASTSEG_MULTIPLY_ADD(BFloat16Product, "m16n8k16", "bf16.bf16")
FASTSEG_MULTIPLY_ADD(Tf32Product, "m16n8k8", "tf32.tf32")
#undef FASTSEG_MULTIPLY_ADD

#endif

// A float's nearest TF32: tensor cores would cut off the 13 bits. NaN and infinity stay.
__device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
#if defined(FASTSEG_SIMT)
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return magnitude == 0x7f800000u ? bits : 0x7fffe000u;
  return (bits + 0x1000u) & 0xffffe000u;
#else
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#endif
}

}  // namespace fastseg
