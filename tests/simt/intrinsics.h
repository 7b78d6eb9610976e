#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "block.h"

// Device functions that the C library lacks.

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }
inline int __clzll(long long value) {
  return value ? __builtin_clzll(static_cast<unsigned long long>(value)) : 64;
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

template <typename To, typename From>
To simt_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline long long __double_as_longlong(double value) { return simt_bits<long long>(value); }
inline int __float_as_int(float value) { return simt_bits<int>(value); }
inline unsigned __float_as_uint(float value) { return simt_bits<unsigned>(value); }
inline float __int_as_float(int value) { return simt_bits<float>(value); }
inline float __uint_as_float(unsigned value) { return simt_bits<float>(value); }

template <typename T>
T __ldg(const T* address) {
  return *address;
}

// What another block may be writing: the load is relaxed, as of ld.volatile.
template <typename T>
T __ldcv(const T* address) {
  return __atomic_load_n(address, __ATOMIC_RELAXED);
}

namespace simt {

// An access of several numbers at once must be aligned to all of them.
inline void require_alignment(const void* address, size_t bytes, Location where) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  block().fail("vector access at " + text_of(where) + ": the address is not aligned to " +
               std::to_string(bytes) + " bytes");
}

}  // namespace simt
