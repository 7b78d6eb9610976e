#pragma once

#include <cstdint>

#include "launch.cuh"

// Sums over what comes before, in one launch: "Single-pass Parallel Prefix Scan with Decoupled
// Look-back" (Merrill and Garland 2016). A tile first publishes its own sum, then looks back over
// the tiles before it for theirs, and publishes the sum of all. Tiles are numbered in the order in
// which their blocks begin: a block waits only for blocks that run, and the first for none.
namespace fastseg {
namespace cuda {

// A sum in the upper bits, and below them what it is of: nothing is known while the word is zero.
using TileState = unsigned long long;
constexpr TileState kOwnSum = 1, kSumOfAll = 2;

// The number of the block's tile; `turns` begins at zero. All threads must call it.
__device__ __forceinline__ int64_t next_tile(unsigned long long* turns) {
  FASTSEG_SHARED(unsigned long long, turn, );
  if (threadIdx.x == 0) turn = atomicAdd(turns, 1ull);
  __syncthreads();
  return static_cast<int64_t>(turn);
}

// What one thread finds before `tile`, whose own sum it has, of states that lie `stride` apart.
__device__ __forceinline__ int64_t sum_of_tiles_before(TileState* states, int64_t tile,
                                                       int64_t stride, int64_t own) {
  constexpr int kWindow = 8;  // states that are read at once
  atomicExch(&states[tile * stride], static_cast<TileState>(own) << 2 | kOwnSum);
  int64_t sum = 0;
  for (int64_t end = tile; end > 0;) {
    TileState window[kWindow];
#pragma unroll
    for (int i = 0; i < kWindow; ++i) {
      window[i] = end > i ? __ldcv(&states[(end - 1 - i) * stride]) : kSumOfAll;
    }
    bool known = true;
#pragma unroll
    for (int i = 0; i < kWindow; ++i) {
      known = known && window[i] != 0;
      if (!known) continue;
      sum += static_cast<int64_t>(window[i] >> 2);
      end = window[i] & kSumOfAll ? 0 : end - 1;
      known = end > 0;
    }
  }
  atomicExch(&states[tile * stride], static_cast<TileState>(sum + own) << 2 | kSumOfAll);
  return sum;
}

// The sum of what the block's threads before this one hold, and in *total that of all of them. All
// threads must call it.
template <int kThreads>
__device__ __forceinline__ int64_t sum_of_threads_before(int64_t own, int64_t* total) {
  constexpr int kWarps = kThreads / 32;
  FASTSEG_SHARED(int64_t, warp_sums, [kWarps]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t sum = own;  // inclusive over the warp's lanes, then over the block's warps
  for (int delta = 1; delta < 32; delta *= 2) {
    const int64_t other = __shfl_up_sync(0xffffffffu, sum, delta);
    if (lane >= delta) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) sum += *total;
    *total += warp_sums[w];
  }
  return sum - own;
}

}  // namespace cuda
}  // namespace fastseg
