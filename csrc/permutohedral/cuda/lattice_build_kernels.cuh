#pragma once

#include <cstdint>

#include "../../common/radix_sort.cuh"
#include "../simplex_math.h"
#include "vertex_key.cuh"

// The lattice of a whole batch: points are placed, their vertices entered into a hash table, and
// numbered by their first contribution. Whichever thread enters a vertex, its first contribution is
// the least of all: numbers do not depend on the order of the threads.
namespace fastseg {
namespace cuda {

constexpr int kBuildThreads = 128;
constexpr int kNumberThreads = 256, kNumberRounds = 16;
constexpr int64_t kNumberTile = kNumberThreads * kNumberRounds;  // contributions of a block

struct FeatureScales {
  double of[kLargestDims];
};

// Arithmetic of one point in double precision, whatever the features are: of a few operations.
struct RoundNearest {
  __device__ double operator()(double x) const { return rint(x); }
};
struct ToInteger {
  __device__ int32_t operator()(double x) const { return static_cast<int32_t>(x); }
};
struct ToReal {
  __device__ double operator()(int32_t x) const { return static_cast<double>(x); }
};

// All lanes of a warp together: one address takes one of their atomics at a time. Most need none.
__device__ __forceinline__ void raise_largest(double* largest, double magnitude) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    magnitude = fmax(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, lanes));
  }
  // Of numbers that are not negative the bits order as the numbers do.
  auto* present = reinterpret_cast<unsigned long long*>(largest);
  const auto found = static_cast<unsigned long long>(__double_as_longlong(magnitude));
  if (threadIdx.x % 32 == 0 && found > __ldcv(present)) atomicMax(present, found);
}

// The simplex of one point, and the largest of its coordinates.
template <typename Real, int kDims>
__device__ __forceinline__ double place_point(const Real* __restrict__ features,
                                              const FeatureScales& scales, int64_t points,
                                              int64_t point, int32_t* __restrict__ cells,
                                              Real* __restrict__ barycentric,
                                              int8_t* __restrict__ rank,
                                              LatticeStatus* __restrict__ status) {
  constexpr int kCorners = kDims + 1;
  const int64_t image = point / points;
  const Real* feature = features + image * kDims * points + (point - image * points);
  double scaled[kDims], elevated[kCorners], weight[kCorners];
  int32_t cell[kCorners], place[kCorners];
  for (int d = 0; d < kDims; ++d) {
    scaled[d] = static_cast<double>(feature[d * points]) * scales.of[d];
    if (!(fabs(scaled[d]) <= 1e300)) {
      atomicMax(reinterpret_cast<unsigned long long*>(&status->unusable),
                static_cast<unsigned long long>(kLargestDims + 1 - d));
      scaled[d] = 0;
    }
  }
  elevate<double, double, kDims>(scaled, elevated);
  double largest = 0;
  for (int i = 0; i < kCorners; ++i) largest = fmax(largest, fabs(elevated[i]));
  if (!(largest < kLargestCoordinate)) {  // what follows must not overflow
    for (int i = 0; i < kCorners; ++i) elevated[i] = 0;
  }
  enclosing_simplex<double, double, int32_t, kDims>(elevated, cell, place, weight, RoundNearest(),
                                                    ToInteger(), ToReal());
  for (int i = 0; i < kCorners; ++i) {
    cells[point * kCorners + i] = cell[i];
    rank[point * kCorners + i] = static_cast<int8_t>(place[i]);
    barycentric[point * kCorners + i] = static_cast<Real>(weight[i]);
  }
  return largest;
}

// One thread a point; neighbouring threads read neighbouring features. All of them empty the table.
template <typename Real, int kDims>
__global__ void __launch_bounds__(kBuildThreads)
    place_points(const Real* __restrict__ features, FeatureScales scales, int64_t batch,
                 int64_t points, LatticeSlot* __restrict__ table, int64_t table_size,
                 int32_t* __restrict__ cells, Real* __restrict__ barycentric,
                 int8_t* __restrict__ rank, LatticeStatus* __restrict__ status) {
  const int64_t point = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  for (int64_t i = point; i < table_size; i += int64_t{gridDim.x} * kBuildThreads) {
    table[i] = {kNobody, kNobody};
  }
  double largest = 0;
  if (point < batch * points) {
    largest =
        place_point<Real, kDims>(features, scales, points, point, cells, barycentric, rank, status);
  }
  raise_largest(&status->largest, largest);
}

// One thread a contribution. A slot belongs to whoever comes first, and to all of its vertex;
// `first` gets the least of them. More slots than contributions: the search ends.
__global__ void __launch_bounds__(kBuildThreads)
    enter_vertices(Vertices vertices, const LatticeStatus* __restrict__ status,
                   int64_t contributions, int64_t table_size, LatticeSlot* table,
                   int64_t* __restrict__ slot_of) {
  const int64_t own = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
  if (own >= contributions) return;
  const PackedKeys packed = {vertices, PackedKeys::bits_for(vertices, status->largest)};
  const WideKey wide = {own, -1, true};
  const uint64_t key = packed.bits ? packed.own(own) : static_cast<uint64_t>(own);
  const uint64_t mask = static_cast<uint64_t>(table_size) - 1;
  uint64_t slot = (packed.bits ? mixed(key) : wide.hash(vertices)) & mask;
  for (;; slot = (slot + 1) & mask) {
    const unsigned long long owner =
        atomicCAS(&table[slot].key, kNobody, static_cast<unsigned long long>(key));
    if (owner == kNobody || owner == key) break;
    if (!packed.bits && wide.is_vertex_of(vertices, static_cast<int64_t>(owner))) break;
  }
  atomicMin(&table[slot].first, static_cast<unsigned long long>(own));  // nobody is the largest
  slot_of[own] = static_cast<int64_t>(slot);
}

// Numbers the contributions that are their vertex's first.
__global__ void __launch_bounds__(kNumberThreads)
    number_vertices(const LatticeSlot* __restrict__ table, const int64_t* __restrict__ slot_of,
                    int64_t contributions, unsigned long long* turns, TileState* states,
                    int32_t* __restrict__ numbers, int64_t* __restrict__ met,
                    LatticeStatus* __restrict__ status) {
  FASTSEG_SHARED(int64_t, before_tile, );
  const int64_t tile = next_tile(turns);
  const int64_t first = tile * kNumberTile + threadIdx.x * kNumberRounds;
  unsigned firsts = 0;  // a bit for each of the thread's contributions
  for (int round = 0; round < kNumberRounds; ++round) {
    const int64_t i = first + round;
    if (i < contributions && table[slot_of[i]].first == static_cast<unsigned long long>(i)) {
      firsts |= 1u << round;
    }
  }
  int64_t total;
  int64_t number = sum_of_threads_before<kNumberThreads>(__popc(firsts), &total);
  if (threadIdx.x == 0) {
    before_tile = sum_of_tiles_before(states, tile, 1, total);
    if ((tile + 1) * kNumberTile >= contributions) status->vertices = before_tile + total;
  }
  __syncthreads();
  number += before_tile;
  for (int round = 0; round < kNumberRounds; ++round) {
    if (!(firsts >> round & 1)) continue;
    numbers[slot_of[first + round]] = static_cast<int32_t>(number);
    met[number] = first + round;
    ++number;
  }
}

// Tells each contribution its vertex, and counts the numbers' digits for the sort.
__global__ void __launch_bounds__(kSortThreads)
    name_vertices(const int64_t* __restrict__ slot_of, const int32_t* __restrict__ numbers,
                  int64_t contributions, int32_t* __restrict__ vertices,
                  unsigned long long* digits) {
  DigitCount count;
  count.begin();
  const int passes = sort_passes(contributions);
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = blockIdx.x * kSortTile + round * kSortThreads + threadIdx.x;
    if (i >= contributions) break;
    vertices[i] = numbers[slot_of[i]];
    count.add(vertices[i], passes);
  }
  count.end(digits, passes);
}

// What both neighbours of a vertex along an axis are: their numbers, or -1.
struct NeighbourSearch {
  Vertices vertices;
  const LatticeSlot* table;
  const int32_t* numbers;
  uint64_t mask;
  int bits;

  __device__ int32_t find(int64_t contribution, int axis, bool forward) const {
    const PackedKeys packed = {vertices, bits};
    const WideKey wide = {contribution, axis, forward};
    const uint64_t key = bits ? packed.neighbour(contribution, axis, forward) : 0;
    uint64_t slot = (bits ? mixed(key) : wide.hash(vertices)) & mask;
    for (;; slot = (slot + 1) & mask) {
      const unsigned long long owner = table[slot].key;
      if (owner == kNobody) return -1;
      if (bits ? owner == key : wide.is_vertex_of(vertices, static_cast<int64_t>(owner))) {
        return numbers[slot];
      }
    }
  }
};

// One thread a contribution: where vertices begin among the sorted ones, of which each has some;
// and one a vertex and axis: its neighbours. Threads take turns; M is known on the device.
__global__ void __launch_bounds__(kBuildThreads)
    link_vertices(Vertices vertices, const LatticeSlot* __restrict__ table, int64_t table_size,
                  const int32_t* __restrict__ numbers, const int64_t* __restrict__ met,
                  const int32_t* __restrict__ members, int64_t contributions,
                  const LatticeStatus* __restrict__ status, int64_t capacity,
                  int64_t* __restrict__ segments, int32_t* __restrict__ neighbours) {
  const int64_t count = status->vertices, links = count * (vertices.dims + 1);
  const NeighbourSearch search = {vertices, table, numbers, static_cast<uint64_t>(table_size) - 1,
                                  PackedKeys::bits_for(vertices, status->largest)};
  const int64_t step = int64_t{gridDim.x} * kBuildThreads;
  for (int64_t i = int64_t{blockIdx.x} * kBuildThreads + threadIdx.x;
       i < contributions || i < links; i += step) {
    if (i == 0) segments[count] = contributions;
    if (i < contributions && (i == 0 || members[i] != members[i - 1])) segments[members[i]] = i;
    if (i >= links) continue;
    const int64_t axis = i / count, vertex = i - axis * count;
    int32_t* pair = neighbours + (axis * capacity + vertex) * 2;
#pragma unroll 1
    for (int side = 0; side < 2; ++side) {
      pair[side] = search.find(met[vertex], static_cast<int>(axis), side == 0);
    }
  }
}

}  // namespace cuda
}  // namespace fastseg
