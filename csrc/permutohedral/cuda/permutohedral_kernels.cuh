#pragma once

#include <cstdint>

#include "../../common/block_sum.cuh"
#include "../../common/storage.cuh"
#include "../../common/vector_access.cuh"
#include "corners.cuh"

// Splat, blur and slice over the lattice's arrays, and the derivative's inner products. Rows of
// (., C) arrays lie side by side, and neighbouring threads own neighbouring channels.
namespace fastseg {
namespace cuda {

constexpr int kFilterThreads = 256;

// i / channels, of which the 32-bit division is the quicker.
__device__ __forceinline__ int64_t row_of(int64_t i, int64_t channels) {
  if ((i | channels) >> 32) return i / channels;
  return static_cast<uint32_t>(i) / static_cast<uint32_t>(channels);
}

// A vertex's contributions are added up in pieces of so many, and then the pieces: a flat region
// sends thousands to a few vertices. Pieces are counted from where the vertex begins, so that its
// sum does not depend on what else is in the batch.
constexpr int kPiece = 64;
__host__ __device__ __forceinline__ int64_t piece_tiles(int64_t contributions) {
  return contributions / kPiece + 1;
}

// Contributions [begin, end) of a piece.
struct Piece {
  int64_t begin, end;
};
__device__ __forceinline__ Piece first_piece(int64_t begin, int64_t end) {
  return {begin, end - begin > kPiece ? begin + kPiece : end};
}
// The later piece of [begin, end) that begins in a tile of kPiece contributions, the tile's first
// of which is in [begin, end). At most one does, and none where begin == end in what is returned.
__device__ __forceinline__ Piece later_piece(int64_t tile, int64_t begin, int64_t end) {
  const int64_t start = begin + (tile * kPiece - begin + kPiece - 1) / kPiece * kPiece;
  if (start == begin || start >= end) return {0, 0};
  return {start, end - start > kPiece ? start + kPiece : end};
}
// The sum of [begin, end), more than a piece, from that of the first and those of the tiles.
template <typename T, typename Later>
__device__ __forceinline__ T joined_pieces(T first, int64_t begin, int64_t end, Later later) {
  const int64_t tile = begin / kPiece, pieces = (end - begin - 1) / kPiece;
#pragma unroll 4
  for (int64_t j = 1; j <= pieces; ++j) first += later(tile + j);
  return first;
}

template <typename T, typename Term>
__device__ __forceinline__ T sum_of_piece(const Piece& piece, Term term) {
  T sum = 0;
#pragma unroll 4
  for (int64_t s = piece.begin; s < piece.end; ++s) sum += term(s);
  return sum;
}

// v + (previous + next) / 2 along one axis, or along two of them one after the other: `second` may
// be null. Pairs are aligned to 8 bytes. read(-1) is zero, and of another vertex that there is not
// NaN.
template <typename T, typename Read>
__device__ __forceinline__ T blurred(int64_t vertex, const int32_t* first, const int32_t* second,
                                     int64_t vertices, Read read) {
  const auto along_first = [&](int64_t at) -> T {
    if (at < 0 || at >= vertices) return at == -1 ? T(0) : not_a_number<T>();
    const auto pair = load_pack<2>(first + 2 * at);
    return read(at) + T(0.5) * (read(pair[0]) + read(pair[1]));
  };
  if (!second) return along_first(vertex);
  const auto pair = load_pack<2>(second + 2 * vertex);
  return along_first(vertex) + T(0.5) * (along_first(pair[0]) + along_first(pair[1]));
}

// The arrays of a splat, none of whose indices are trusted.
template <typename Real>
struct Splat {
  const Real *values, *barycentric;
  const int32_t* owners;
  const int64_t *segments, *contributors;
  int64_t contributions, vertices, channels;
  Corners corners;

  __device__ __forceinline__ Real term(int64_t s, int64_t channel) const {
    const int64_t contributor = contributors[s];
    if (contributor < 0 || contributor >= contributions) return not_a_number<Real>();
    return barycentric[contributor] * values[corners.point(contributor) * channels + channel];
  }
  __device__ __forceinline__ bool has_segment(int64_t vertex) const {
    return segments[vertex] >= 0 && segments[vertex + 1] <= contributions;
  }
  __device__ __forceinline__ Piece later(int64_t tile) const {
    const int64_t at = tile * kPiece;
    if (at >= contributions) return {0, 0};
    const int64_t contributor = contributors[at];
    if (contributor < 0 || contributor >= contributions) return {0, 0};
    const int64_t vertex = owners[contributor];
    if (vertex < 0 || vertex >= vertices || !has_segment(vertex)) return {0, 0};
    if (segments[vertex] > at || segments[vertex + 1] <= at) return {0, 0};
    return later_piece(tile, segments[vertex], segments[vertex + 1]);
  }
};

// One thread a channel and vertex, for its first piece, or tile, for a later one.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    splat_pieces(const __grid_constant__ Splat<Real> splat, Real* __restrict__ lattice,
                 Real* __restrict__ tiles) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  const int64_t row = row_of(i, splat.channels), channel = i - row * splat.channels;
  const auto term = [&](int64_t s) { return splat.term(s, channel); };
  if (row < splat.vertices) {
    const Piece piece = first_piece(splat.segments[row], splat.segments[row + 1]);
    lattice[i] = splat.has_segment(row) ? sum_of_piece<Real>(piece, term) : not_a_number<Real>();
    return;
  }
  const int64_t tile = row - splat.vertices;
  if (tile >= piece_tiles(splat.contributions)) return;
  const Piece piece = splat.later(tile);
  tiles[tile * splat.channels + channel] =
      piece.begin < piece.end ? sum_of_piece<Real>(piece, term) : not_a_number<Real>();
}

// One thread a vertex and channel: adds the later pieces to the first, where there are some.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    join_pieces(const int64_t* __restrict__ segments, int64_t contributions, int64_t vertices,
                int64_t channels, const Real* __restrict__ tiles, Real* __restrict__ lattice) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  const int64_t vertex = row_of(i, channels), channel = i - vertex * channels;
  if (vertex >= vertices) return;
  const int64_t begin = segments[vertex], end = segments[vertex + 1];
  if (begin < 0 || end > contributions || end - begin <= kPiece) return;
  lattice[i] = joined_pieces<Real>(lattice[i], begin, end,
                                   [&](int64_t tile) { return tiles[tile * channels + channel]; });
}

// One thread a vertex and channel, along one axis or two.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    blur_axes(const Real* __restrict__ from, const int32_t* __restrict__ first,
              const int32_t* __restrict__ second, int64_t vertices, int64_t channels,
              Real* __restrict__ to) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  const int64_t vertex = row_of(i, channels), channel = i - vertex * channels;
  if (vertex >= vertices) return;
  to[i] = blurred<Real>(vertex, first, second, vertices, [&](int64_t at) -> Real {
    if (at < 0 || at >= vertices) return at == -1 ? Real(0) : not_a_number<Real>();
    return from[at * channels + channel];
  });
}

// One thread a point and channel.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    slice_points(const Real* __restrict__ lattice, const int32_t* __restrict__ vertices,
                 const Real* __restrict__ barycentric, int corners, int64_t points,
                 int64_t vertex_count, int64_t channels, Real* __restrict__ values) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  if (i >= points * channels) return;
  const int64_t point = row_of(i, channels), channel = i - point * channels;
  Real sum = 0;
  for (int k = 0; k < corners; ++k) {
    const int64_t vertex = vertices[point * corners + k];
    const bool known = vertex >= 0 && vertex < vertex_count;
    sum += known ? barycentric[point * corners + k] * lattice[vertex * channels + channel]
                 : not_a_number<Real>();
  }
  values[i] = sum;
}

// One thread a corner of a point's simplex: <lattice[vertex], values[point]>.
template <typename Real>
__global__ void __launch_bounds__(kFilterThreads)
    multiply_vertices(const Real* __restrict__ lattice, const Real* __restrict__ values,
                      const int32_t* __restrict__ vertices, Corners corners, int64_t points,
                      int64_t vertex_count, int64_t channels, Real* __restrict__ products) {
  const int64_t i = int64_t{blockIdx.x} * kFilterThreads + threadIdx.x;
  if (i >= points * corners.count) return;
  const int64_t vertex = vertices[i];
  Real sum = 0;
  if (vertex < 0 || vertex >= vertex_count) {
    sum = not_a_number<Real>();
  } else {
    const Real *row = lattice + vertex * channels, *value = values + corners.point(i) * channels;
    for (int64_t c = 0; c < channels; ++c) sum += row[c] * value[c];
  }
  products[i] = sum;
}

// A column, the points of a channel of an image, is added up in blocks of so many, and then the
// blocks: in an order that does not depend on how many columns there are.
constexpr int kSumThreads = 256, kSumRounds = 16;
constexpr int64_t kSumPoints = int64_t{kSumThreads} * kSumRounds;

// One block so many points of a column; columns share the lines of memory that they read.
template <typename Real>
__global__ void __launch_bounds__(kSumThreads)
    sum_blocks(const Real* __restrict__ values, int64_t points, int64_t channels, int64_t blocks,
               int64_t columns, double* __restrict__ sums) {
  for (int64_t i = blockIdx.x; i < columns * blocks; i += gridDim.x) {
    const int64_t column = i / blocks, begin = (i - column * blocks) * kSumPoints;
    const int64_t image = column / channels, channel = column - image * channels;
    double sum[1] = {0};
    for (int round = 0; round < kSumRounds; ++round) {
      const int64_t point = begin + round * kSumThreads + threadIdx.x;
      if (point < points) sum[0] += values[(image * points + point) * channels + channel];
    }
    block_sum<kSumThreads>(sum);
    if (threadIdx.x == 0) sums[i] = sum[0];
    __syncthreads();  // before the next sum takes the block's memory
  }
}

// One block a column.
template <typename Real>
__global__ void __launch_bounds__(kSumThreads)
    join_blocks(const double* __restrict__ sums, int64_t blocks, int64_t columns,
                Real* __restrict__ result) {
  for (int64_t column = blockIdx.x; column < columns; column += gridDim.x) {
    double sum[1] = {0};
    for (int64_t i = threadIdx.x; i < blocks; i += kSumThreads) sum[0] += sums[column * blocks + i];
    block_sum<kSumThreads>(sum);
    if (threadIdx.x == 0) result[column] = static_cast<Real>(sum[0]);
    __syncthreads();  // before the next sum takes the block's memory
  }
}

}  // namespace cuda
}  // namespace fastseg
