#pragma once

#include <cstdint>

#include "allocate.h"
#include "launch.cuh"

namespace fastseg {
namespace cuda {

constexpr int kScanThreads = 256;
constexpr int64_t kScanTile = kScanThreads * 4;  // numbers of a block

// Each block replaces its tile by the sums of what comes before in it, and writes the tile's sum.
__global__ void __launch_bounds__(kScanThreads)
    scan_tiles(int64_t* __restrict__ values, int64_t count, int64_t* __restrict__ tile_sums) {
  FASTSEG_SHARED(int64_t, warp_sums, [kScanThreads / 32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = int64_t{blockIdx.x} * kScanTile + threadIdx.x * 4;
  int64_t own[4], sum = 0;
  for (int i = 0; i < 4; ++i) {
    own[i] = first + i < count ? values[first + i] : 0;
    sum += own[i];
  }
  int64_t before = sum;  // inclusive over the warp's lanes, then over the block's warps
  for (int delta = 1; delta < 32; delta *= 2) {
    const int64_t other = __shfl_up_sync(0xffffffffu, before, delta);
    if (lane >= delta) before += other;
  }
  if (lane == 31) warp_sums[warp] = before;
  __syncthreads();
  int64_t total = 0;
  for (int w = 0; w < kScanThreads / 32; ++w) {
    if (w == warp) before += total;
    total += warp_sums[w];
  }
  before -= sum;
  for (int i = 0; i < 4; ++i) {
    if (first + i < count) values[first + i] = before;
    before += own[i];
  }
  if (threadIdx.x == 0) tile_sums[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kScanThreads)
    add_to_tiles(int64_t* __restrict__ values, int64_t count,
                 const int64_t* __restrict__ before_tile) {
  const int64_t first = int64_t{blockIdx.x} * kScanTile + threadIdx.x * 4;
  for (int i = 0; i < 4; ++i) {
    if (first + i < count) values[first + i] += before_tile[blockIdx.x];
  }
}

// Replaces each number by the sum of those before it. Returns where the sum of all will lie.
inline const int64_t* exclusive_scan(int64_t* values, int64_t count, const Allocate& allocate,
                                     cudaStream_t stream) {
  const int64_t tiles = (count + kScanTile - 1) / kScanTile;
  auto* sums = static_cast<int64_t*>(allocate(tiles * sizeof(int64_t)));
  FASTSEG_LAUNCH(scan_tiles, static_cast<unsigned>(tiles), kScanThreads, 0, stream, values, count,
                 sums);
  if (tiles == 1) return sums;
  const int64_t* total = exclusive_scan(sums, tiles, allocate, stream);
  FASTSEG_LAUNCH(add_to_tiles, static_cast<unsigned>(tiles), kScanThreads, 0, stream, values, count,
                 sums);
  return total;
}

}  // namespace cuda
}  // namespace fastseg
