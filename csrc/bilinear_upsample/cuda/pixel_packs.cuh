#pragma once

#include <cstdint>

#include "../../common/vector_access.cuh"
#include "../score_layout.h"

// The pixels of a batch, dealt out to threads in packs of neighbours.
namespace fastseg {
namespace cuda {

// Packs of kPixels in a row, of which the last may be smaller.
template <int kPixels>
__host__ __device__ __forceinline__ int64_t packs_of_row(const UpsampleGeometry& g) {
  return (g.width + kPixels - 1) / kPixels;
}

struct PackPlace {
  int64_t image;
  int32_t y, x;  // of the first pixel
};

// Of pack `number` of the batch: row by row, image by image. The quotients are unsigned: after
// signed ones nvcc 13 spends half as many registers again on the loops that follow.
template <int kPixels>
__device__ __forceinline__ PackPlace pack_place(int64_t number, const UpsampleGeometry& g) {
  const uint64_t packs = packs_of_row<kPixels>(g), height = g.height;
  const uint64_t row = uint64_t(number) / packs, image = row / height;
  return {static_cast<int64_t>(image), static_cast<int32_t>(row - image * height),
          static_cast<int32_t>(number - row * packs) * kPixels};
}

// Reads a pack of neighbours, or so many as are `left` of their row, and zeros: as vectors where
// their address allows it.
template <typename T, int kPixels>
__device__ __forceinline__ void load_run(const T* from, int64_t left, T (&values)[kPixels]) {
  constexpr int kPack = int{16 / sizeof(T)} < kPixels ? int{16 / sizeof(T)} : kPixels;
  if (left >= kPixels && reinterpret_cast<uintptr_t>(from) % (kPack * sizeof(T)) == 0) {
#pragma unroll
    for (int first = 0; first < kPixels; first += kPack) {
      const Pack<T, kPack> pack = load_pack<kPack>(from + first);
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[first + i] = pack[i];
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPixels; ++i) values[i] = i < left ? from[i] : T(0);
}

// Writes a pack of neighbours, or so many as are `left` of their row: as vectors where their
// address allows it.
template <typename T, int kPixels>
__device__ __forceinline__ void store_run(const T (&values)[kPixels], int64_t left, T* to) {
  constexpr int kPack = int{16 / sizeof(T)} < kPixels ? int{16 / sizeof(T)} : kPixels;
  if (left >= kPixels && reinterpret_cast<uintptr_t>(to) % (kPack * sizeof(T)) == 0) {
#pragma unroll
    for (int first = 0; first < kPixels; first += kPack) {
      Pack<T, kPack> pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack[i] = values[first + i];
      store_pack(pack, to + first);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    if (i < left) to[i] = values[i];
  }
}

// The thread's number, counted on from those of the `first` blocks that other grids had.
__device__ __forceinline__ int64_t thread_of(int64_t first) {
  return (first + blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace cuda
}  // namespace fastseg
