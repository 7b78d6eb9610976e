#pragma once

#include <cstdint>

#include "launch.cuh"

// Several neighbouring numbers in one access, of at most 16 bytes.
namespace fastseg {

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
  __host__ __device__ T& operator[](int i) { return values[i]; }
  __host__ __device__ const T& operator[](int i) const { return values[i]; }
};

// `from` and `to` must be aligned to the whole pack.
template <int kCount, typename T>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* from) {
  static_assert(sizeof(T) * kCount <= 16);
#if defined(FASTSEG_SIMT)
  simt::require_alignment(from, sizeof(T) * kCount, simt::Location::here());
#endif
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <int kCount, typename T>
__device__ __forceinline__ void store_pack(const Pack<T, kCount>& pack, T* to) {
  static_assert(sizeof(T) * kCount <= 16);
#if defined(FASTSEG_SIMT)
  simt::require_alignment(to, sizeof(T) * kCount, simt::Location::here());
#endif
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

// kCount where `length` is a multiple of it and both addresses are aligned to so many T, else 1.
template <typename T, int kCount = 16 / sizeof(T)>
inline int pack_size(int64_t length, const void* a, const void* b) {
  const auto addresses = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  return length % kCount == 0 && addresses % (kCount * sizeof(T)) == 0 ? kCount : 1;
}

}  // namespace fastseg
