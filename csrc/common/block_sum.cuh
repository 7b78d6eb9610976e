#pragma once

#include "launch.cuh"

namespace fastseg {

// The sum of kCount numbers of each of the block's kThreads threads, in one order; thread 0 gets
// it. All threads must call it.
template <int kThreads, int kCount>
__device__ __forceinline__ void block_sum(double (&values)[kCount]) {
  constexpr int kWarps = kThreads / 32;
  FASTSEG_SHARED(double, warp_sums, [kCount][kWarps]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      values[i] += __shfl_down_sync(0xffffffffu, values[i], lanes);
    }
    if (lane == 0) warp_sums[i][warp] = values[i];
  }
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = 0;
      for (int w = 0; w < kWarps; ++w) values[i] += warp_sums[i][w];
    }
  }
}

}  // namespace fastseg
