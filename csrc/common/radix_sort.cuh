#pragma once

#include <cstdint>

#include "look_back.cuh"

// A stable radix sort of keys of 32 bits with a launch for each digit: "Onesweep: A Faster Least
// Significant Digit Radix Sort for GPUs" (Adinets and Merrill 2022). The digits of all passes are
// counted beforehand, by whoever writes the keys.
namespace fastseg {
namespace cuda {

constexpr int kSortThreads = 256, kDigits = 256, kSortPasses = 4, kSortRounds = 16;
constexpr int64_t kSortTile = int64_t{kSortThreads} * kSortRounds;  // pairs of a block

__host__ __device__ __forceinline__ int64_t sort_tiles(int64_t count) {
  return (count + kSortTile - 1) / kSortTile;
}

// Passes that keys in [0, limit) need.
__host__ __device__ __forceinline__ int sort_passes(int64_t limit) {
  int passes = 1;
  while (passes < kSortPasses && limit > int64_t{1} << 8 * passes) ++passes;
  return passes;
}

// What a sort needs of memory, all of it zero at its beginning.
struct SortSpace {
  unsigned long long* digits;  // (4, 256): how often a digit occurs
  unsigned long long* turns;   // (4)
  TileState* states;           // (passes, tiles, 256)

  static int64_t bytes(int64_t count, int passes) {
    const int64_t words = kSortPasses * (kDigits + 1) + passes * sort_tiles(count) * kDigits;
    return words * int64_t{sizeof(TileState)};
  }
  static SortSpace at(void* memory) {
    auto* words = static_cast<unsigned long long*>(memory);
    return {words, words + kSortPasses * kDigits, words + kSortPasses * (kDigits + 1)};
  }
};

__device__ __forceinline__ int digit_of(int32_t key, int pass) { return (key >> 8 * pass) & 0xff; }

// A block's count of its keys' digits. All threads must call begin() and end().
struct DigitCount {
  int (*of)[kDigits];  // in shared memory

  __device__ __forceinline__ void begin() {
    FASTSEG_SHARED(int, occurrences, [kSortPasses][kDigits]);
    of = occurrences;
    for (int pass = 0; pass < kSortPasses; ++pass) of[pass][threadIdx.x] = 0;
    __syncthreads();
  }
  __device__ __forceinline__ void add(int32_t key, int passes) {
    for (int pass = 0; pass < passes; ++pass) atomicAdd(&of[pass][digit_of(key, pass)], 1);
  }
  __device__ __forceinline__ void end(unsigned long long* digits, int passes) {
    __syncthreads();
    for (int pass = 0; pass < passes; ++pass) {
      const int count = of[pass][threadIdx.x];
      if (count > 0) {
        atomicAdd(&digits[pass * kDigits + threadIdx.x], static_cast<unsigned long long>(count));
      }
    }
  }
};

// One pass: moves a block's tile, in rounds of one pair a thread. Pairs of one digit keep their
// order: within a warp by lane, then by warp, then by round, then by tile. The first pass has no
// payload: it is the pair's place. The last may tell where each payload went, in `place_of`.
__global__ void __launch_bounds__(kSortThreads)
    scatter_pairs(const int32_t* __restrict__ keys, const int64_t* __restrict__ payload,
                  int64_t count, int pass, SortSpace space, int32_t* __restrict__ sorted_keys,
                  int64_t* __restrict__ sorted_payload, int64_t* __restrict__ place_of) {
  constexpr int kWarps = kSortThreads / 32;
  FASTSEG_SHARED(int64_t, next, [kDigits]);
  FASTSEG_SHARED(int, of_warp, [kWarps][kDigits]);
  const int own = threadIdx.x, lane = own % 32, warp = own / 32;  // also the thread's digit
  for (int w = 0; w < kWarps; ++w) of_warp[w][own] = 0;
  const int64_t tile = next_tile(&space.turns[pass]);
  const int64_t first = tile * kSortTile + own;
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = first + round * kSortThreads;
    if (i < count) atomicAdd(&of_warp[warp][digit_of(keys[i], pass)], 1);
  }
  __syncthreads();
  int64_t sum = 0, total;
  for (int w = 0; w < kWarps; ++w) sum += of_warp[w][own];
  TileState* states = space.states + pass * sort_tiles(count) * kDigits + own;
  const int64_t before = sum_of_tiles_before(states, tile, kDigits, sum);
  const auto occurrences = static_cast<int64_t>(space.digits[pass * kDigits + own]);
  next[own] = sum_of_threads_before<kSortThreads>(occurrences, &total) + before;
  for (int round = 0; round < kSortRounds; ++round) {
    for (int w = 0; w < kWarps; ++w) of_warp[w][own] = 0;
    __syncthreads();
    const int64_t i = first + round * kSortThreads;
    const int32_t key = i < count ? keys[i] : 0;
    const int digit = i < count ? digit_of(key, pass) : kDigits;
    const unsigned peers = __match_any_sync(0xffffffffu, digit);
    const int earlier = __popc(peers & ((1u << lane) - 1));
    if (i < count && earlier == 0) of_warp[warp][digit] = __popc(peers);
    __syncthreads();
    if (i < count) {
      int64_t to = next[digit] + earlier;
      for (int w = 0; w < warp; ++w) to += of_warp[w][digit];
      const int64_t carried = payload ? payload[i] : i;
      sorted_keys[to] = key;
      sorted_payload[to] = carried;
      if (place_of) place_of[carried] = to;
    }
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) next[own] += of_warp[w][own];
  }
}

// Where the sort's arrays lie: each pass reads one pair of arrays and writes the other.
struct SortArrays {
  int32_t *keys, *other_keys;      // sorted at the end
  int64_t *places, *other_places;  // 0, 1, ... in the order of their keys
  int64_t* place_of;               // the inverse, or null
};

// The places of `keys`, all in [0, limit), sorted by key and stable.
inline void sort_places(const int32_t* keys, int64_t count, int64_t limit, const SortSpace& space,
                        const SortArrays& arrays, cudaStream_t stream) {
  const int passes = sort_passes(limit);
  const int32_t* from_keys = keys;
  const int64_t* from_places = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    const bool last = pass == passes - 1, own = (passes - 1 - pass) % 2 == 0;
    int32_t* to_keys = own ? arrays.keys : arrays.other_keys;
    int64_t* to_places = own ? arrays.places : arrays.other_places;
    FASTSEG_LAUNCH(scatter_pairs, static_cast<unsigned>(sort_tiles(count)), kSortThreads, 0, stream,
                   from_keys, from_places, count, pass, space, to_keys, to_places,
                   last ? arrays.place_of : nullptr);
    from_keys = to_keys;
    from_places = to_places;
  }
}

}  // namespace cuda
}  // namespace fastseg
