#pragma once

#include <cstdint>
#include <utility>

#include "scan.cuh"

namespace fastseg {
namespace cuda {

constexpr int kSortThreads = 256, kDigits = 256, kSortRounds = 8;
constexpr int64_t kSortTile = int64_t{kSortThreads} * kSortRounds;  // pairs of a block

__device__ __forceinline__ int digit_of(int32_t key, int shift) { return (key >> shift) & 0xff; }

// counts (256, blocks): how often a digit occurs in a block's tile.
__global__ void __launch_bounds__(kSortThreads)
    count_digits(const int32_t* __restrict__ keys, int64_t count, int shift,
                 int64_t* __restrict__ counts) {
  FASTSEG_SHARED(int, occurrences, [kDigits]);
  occurrences[threadIdx.x] = 0;
  __syncthreads();
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = blockIdx.x * kSortTile + round * kSortThreads + threadIdx.x;
    if (i < count) atomicAdd(&occurrences[digit_of(keys[i], shift)], 1);
  }
  __syncthreads();
  counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = occurrences[threadIdx.x];
}

// Moves a block's tile, in rounds of one pair a thread, to where the digits' places begin
// (`places` is the scan of `counts`). Pairs of one digit keep their order: within a warp by lane,
// then by warp, then by round, then by block.
__global__ void __launch_bounds__(kSortThreads)
    scatter_pairs(const int32_t* __restrict__ keys, const int64_t* __restrict__ payload,
                  int64_t count, int shift, const int64_t* __restrict__ places,
                  int32_t* __restrict__ sorted_keys, int64_t* __restrict__ sorted_payload) {
  constexpr int kWarps = kSortThreads / 32;
  FASTSEG_SHARED(int64_t, next, [kDigits]);
  FASTSEG_SHARED(int, of_warp, [kWarps][kDigits]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  next[threadIdx.x] = places[int64_t{threadIdx.x} * gridDim.x + blockIdx.x];
  for (int round = 0; round < kSortRounds; ++round) {
    for (int w = 0; w < kWarps; ++w) of_warp[w][threadIdx.x] = 0;
    __syncthreads();
    const int64_t i = blockIdx.x * kSortTile + round * kSortThreads + threadIdx.x;
    const int32_t key = i < count ? keys[i] : 0;
    const int digit = i < count ? digit_of(key, shift) : kDigits;
    const unsigned peers = __match_any_sync(0xffffffffu, digit);
    const int earlier = __popc(peers & ((1u << lane) - 1));
    if (i < count && earlier == 0) of_warp[warp][digit] = __popc(peers);
    __syncthreads();
    if (i < count) {
      int64_t to = next[digit] + earlier;
      for (int w = 0; w < warp; ++w) to += of_warp[w][digit];
      sorted_keys[to] = key;
      sorted_payload[to] = payload ? payload[i] : i;
    }
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) next[threadIdx.x] += of_warp[w][threadIdx.x];
    __syncthreads();
  }
}

// The places 0, 1, ... of `keys`, all in [0, limit), sorted by key and stable; `sorted_keys` gets
// the keys in that order.
inline void sort_places(const int32_t* keys, int64_t count, int64_t limit, const Allocate& allocate,
                        cudaStream_t stream, int32_t* sorted_keys, int64_t* places) {
  const int64_t blocks = (count + kSortTile - 1) / kSortTile;
  auto* counts = static_cast<int64_t*>(allocate(kDigits * blocks * int64_t{sizeof(int64_t)}));
  auto* other_keys = static_cast<int32_t*>(allocate(count * int64_t{sizeof(int32_t)}));
  auto* other_places = static_cast<int64_t*>(allocate(count * int64_t{sizeof(int64_t)}));
  int passes = 1;
  while (passes < 4 && limit > int64_t{1} << 8 * passes) ++passes;
  const int32_t* from_keys = keys;
  const int64_t* from_places = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    const bool last_buffer = (passes - 1 - pass) % 2 == 0;  // so that the last pass ends in it
    int32_t* to_keys = last_buffer ? sorted_keys : other_keys;
    int64_t* to_places = last_buffer ? places : other_places;
    const unsigned grid = static_cast<unsigned>(blocks);
    FASTSEG_LAUNCH(count_digits, grid, kSortThreads, 0, stream, from_keys, count, 8 * pass, counts);
    exclusive_scan(counts, kDigits * blocks, allocate, stream);
    FASTSEG_LAUNCH(scatter_pairs, grid, kSortThreads, 0, stream, from_keys, from_places, count,
                   8 * pass, counts, to_keys, to_places);
    from_keys = to_keys;
    from_places = to_places;
  }
}

}  // namespace cuda
}  // namespace fastseg
