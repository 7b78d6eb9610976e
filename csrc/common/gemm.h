#pragma once

#include <algorithm>
#include <cstdint>

#include "activation.h"
#include "simd.h"

// The matrix product of the convolutions: C = A B, where the rows of A (pixels) and of C lie
// wherever pointers say, and B (weights) is packed in panels of 64 bytes, [N / 16][K][16] for
// float. The panels, and with them packed weights, are the same for every instruction set.
//
// One tile of C, a few rows times a few panels, stays in registers over a block of K. Every sum
// runs over K in the same order and the same blocks, whatever the cut into tiles and tasks: the
// bits of a result depend on neither.
namespace fastseg {
namespace FASTSEG_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 8, kTilePanels = 3;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileRows = 6, kTilePanels = 1;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileRows = 6, kTilePanels = 1;
#else
constexpr int kVectorBytes = 16, kTileRows = 3, kTilePanels = 1;
#endif

template <typename T>
constexpr int kPanel = 64 / sizeof(T);
template <typename T>
constexpr int kWideLanes = kVectorBytes / sizeof(T);
template <typename T>
using Wide = Vec<T, kWideLanes<T>>;

// Block of K. From 64 to 512 the speed is the same (AVX2 and AVX-512 of a Zen 4, 2026-11).
constexpr int64_t kDepth = 512;

template <typename T>
constexpr int64_t panels_of(int64_t columns) {
  return (columns + kPanel<T> - 1) / kPanel<T>;
}

// How many of the panels that are left to multiply at once: rather two and two than three and one.
inline int64_t panels_at_once(int64_t left) {
  return left == kTilePanels + 1 && kTilePanels > 2 ? kTilePanels - 1
                                                    : std::min<int64_t>(kTilePanels, left);
}

// `total` in equal parts of at most `most`, each but the last a multiple of `unit`.
struct Cut {
  int64_t total, count, size;

  Cut(int64_t total, int64_t unit, int64_t most) : total(total) {
    const int64_t parts = std::max<int64_t>(1, (total + most - 1) / most);
    size = std::max(unit, ((total + parts - 1) / parts + unit - 1) / unit * unit);
    count = std::max<int64_t>(1, (total + size - 1) / size);
  }
  int64_t begin(int64_t i) const { return i * size; }
  int64_t end(int64_t i) const { return std::min(total, (i + 1) * size); }
};

// Rows in parts of at most `most`; smaller ones where there would be too few tasks to share out.
inline Cut cut_rows(int64_t rows, int64_t most, int64_t tasks_of_each) {
  constexpr int64_t kEnoughTasks = 16;
  while (most > 2 * kTileRows && (rows + most - 1) / most * tasks_of_each < kEnoughTasks) most /= 2;
  return Cut(rows, kTileRows, most);
}

// A tile, and what is added to its sums and done with them when they are complete.
template <typename T>
struct Tile {
  const T* a[kTileRows];  // each row; or only the first, of rows packed side by side as B's columns
  const T* b;             // first panel
  int64_t b_stride;       // from panel to panel
  int64_t depth;
  T* c[kTileRows];
  int64_t columns;  // to be stored; the last panel may have more
  bool accumulate;  // add to C
  bool last;        // then do what follows
  Activation activation;
  bool stream;                   // C is complete, aligned to vectors, and larger than the caches
  const T* column_bias;          // padded to whole panels, or null
  const T* row_bias;             // or null
  const T* residual[kTileRows];  // as C; or all null
  T* also[kTileRows];            // whole panels that the sums are added to, besides; or all null
  const T* addend[kTileRows];    // then added to the sums, complete or not; or all null
  // What the next tiles read, to be fetched meanwhile: rows of A, null if none; and of each panel
  // of B, `ahead_lines` panel rows for every kAheadStep of K.
  const T* ahead_a[kTileRows];
  const T* ahead_b;
  int64_t ahead_lines;
};

// Pointers for the rows of a tile, always for all that it may have: so this is done in vectors.
template <typename To, typename From>
inline void space_rows(To* (&to)[kTileRows], From* first, int64_t stride) {
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; ++i) to[i] = first + i * stride;
}
template <typename To, typename From>
inline void copy_rows(To* (&to)[kTileRows], From* const* from, int64_t offset) {
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; ++i) to[i] = from[i] + offset;
}

// Values of a row of A, and rows of a panel of B, in one line of the caches.
template <typename T>
constexpr int64_t kAheadStep = kPanel<T>;

// Shares the panels of B that come next among the tiles that are multiplied with the present ones.
template <typename T>
struct Ahead {
  const T* next;  // or null
  int64_t next_depth, per_tile, lines;

  Ahead(const T* next, int64_t next_depth, int64_t depth, int64_t tiles)
      : next(next), next_depth(next_depth) {
    const int64_t steps = (depth + kAheadStep<T> - 1) / kAheadStep<T>;
    lines = (next_depth + tiles * steps - 1) / (tiles * steps);
    per_tile = steps * lines;
  }
  void fetch_with(Tile<T>* t, int64_t tile) const {
    const int64_t first = tile * per_tile;
    const bool more = next && first < next_depth;
    t->ahead_b = more ? next + first * kPanel<T> : nullptr;
    t->ahead_lines = more ? lines : 0;
  }
};

// Steps of K at once: the pointers of all rows then advance once (narrow tiles are 6 % faster).
constexpr int64_t kUnrolled = 4;

template <typename V>
inline V relu_of(V value) {
  return value < V{} ? V{} : value;  // NaN stays
}

template <typename V>
inline V relu6_of(V value) {
  const V six = V{} + 6.0f;
  const V least = relu_of(value);
  return least > six ? six : least;
}

template <typename V>
inline V activated(Activation activation, V value) {
  if (activation == Activation::kRelu) return relu_of(value);
  return activation == Activation::kRelu6 ? relu6_of(value) : value;
}

// The end of a tile whose last panel has columns that do not exist: `sum` (rows, columns) in
// memory.
template <typename T>
void finish_part(const Tile<T>& tile, int rows, const T* sum, int64_t stride) {
  for (int i = 0; i < rows; ++i, sum += stride) {
    if (tile.also[i]) {
      for (int64_t j = 0; j < stride; ++j) tile.also[i][j] += sum[j];
    }
    for (int64_t j = 0; j < tile.columns; ++j) {
      T value = sum[j];
      if (tile.addend[i]) value += tile.addend[i][j];
      if (tile.accumulate) value += tile.c[i][j];
      if (tile.last) {
        if (tile.column_bias) value += tile.column_bias[j];
        if (tile.row_bias) value += tile.row_bias[i];
        if (tile.residual[i]) value += tile.residual[i][j];
        value = activated(tile.activation, value);
      }
      tile.c[i][j] = value;
    }
  }
}

// To memory that is aligned to a vector, without reading its line first.
template <typename T, typename V>
inline void store_past_caches(T* to, V value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(reinterpret_cast<float*>(to), (__m512)value);
#elif defined(__AVX__)
  _mm256_stream_ps(reinterpret_cast<float*>(to), (__m256)value);
#elif defined(__SSE__)
  _mm_stream_ps(reinterpret_cast<float*>(to), (__m128)value);
#else
  store(to, value);
#endif
}

// Before a task ends that has stored past the caches: other threads may then read what it stored.
inline void fence_stores() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

template <typename T, int kRows, int kPanels, bool kPackedRows>
void multiply_tile(const Tile<T>& tile) {
  using V = Wide<T>;
  constexpr int kVectors = kPanels * kPanel<T> / kWideLanes<T>, kL = kWideLanes<T>;
  constexpr int kPerPanel = kPanel<T> / kL;
  V sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V{};
  }
  const T* a[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) a[i] = tile.a[kPackedRows ? 0 : i];
  const T* b[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) b[p] = tile.b + p * tile.b_stride;
  const auto add_products = [&](int64_t k) __attribute__((always_inline)) {
    V column[kVectors];
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      column[v] = load<V>(b[v / kPerPanel] + k * kPanel<T> + v % kPerPanel * kL);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const V x = broadcast<V>(kPackedRows ? a[0][k * kPanel<T> + i] : a[i][k]);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) sum[i][v] += x * column[v];
    }
  };
  const int64_t depth = tile.depth;
  const T* ahead = tile.ahead_b;
  for (int64_t first = 0; first < depth; first += kAheadStep<T>) {
    if (tile.ahead_a[0]) {
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) __builtin_prefetch(tile.ahead_a[i] + first, 0, 2);
    }
    for (int64_t line = 0; line < tile.ahead_lines; ++line, ahead += kPanel<T>) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(ahead + p * tile.b_stride, 0, 2);
    }
    const int64_t end = std::min(depth, first + kAheadStep<T>);
    int64_t k = first;
    for (; k + kUnrolled <= end; k += kUnrolled) {
#pragma GCC unroll 4
      for (int64_t step = 0; step < kUnrolled; ++step) add_products(k + step);
    }
    for (; k < end; ++k) add_products(k);
  }
  if (tile.columns == kPanels * kPanel<T>) {
    // Branches outside and rows inside: the sums never leave their registers.
#define FASTSEG_FOR_SUMS(statement)                                            \
  _Pragma("GCC unroll 8") for (int i = 0; i < kRows; ++i) {                    \
    _Pragma("GCC unroll 12") for (int v = 0; v < kVectors; ++v) { statement; } \
  }
    if (tile.also[0]) {
      FASTSEG_FOR_SUMS(store(tile.also[i] + v * kL, load<V>(tile.also[i] + v * kL) + sum[i][v]));
    }
    if (tile.addend[0]) FASTSEG_FOR_SUMS(sum[i][v] += load<V>(tile.addend[i] + v * kL));
    if (tile.accumulate) FASTSEG_FOR_SUMS(sum[i][v] += load<V>(tile.c[i] + v * kL));
    if (tile.last) {
      if (tile.column_bias) FASTSEG_FOR_SUMS(sum[i][v] += load<V>(tile.column_bias + v * kL));
      if (tile.row_bias) FASTSEG_FOR_SUMS(sum[i][v] += tile.row_bias[i]);
      if (tile.residual[0]) FASTSEG_FOR_SUMS(sum[i][v] += load<V>(tile.residual[i] + v * kL));
      if (tile.activation == Activation::kRelu) FASTSEG_FOR_SUMS(sum[i][v] = relu_of(sum[i][v]));
      if (tile.activation == Activation::kRelu6) FASTSEG_FOR_SUMS(sum[i][v] = relu6_of(sum[i][v]));
    }
    if (tile.stream) {
      FASTSEG_FOR_SUMS(store_past_caches(tile.c[i] + v * kL, sum[i][v]));
    } else {
      FASTSEG_FOR_SUMS(store(tile.c[i] + v * kL, sum[i][v]));
    }
#undef FASTSEG_FOR_SUMS
    return;
  }
  T part[kRows * kPanels * kPanel<T>];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      store(part + i * kPanels * kPanel<T> + v * kL, sum[i][v]);
    }
  }
  finish_part(tile, kRows, part, int64_t{kPanels} * kPanel<T>);
}

template <typename T, int kPanels, bool kPackedRows>
void multiply_rows(const Tile<T>& tile, int64_t rows) {
  switch (rows) {
    case 1:
      return multiply_tile<T, 1, kPanels, kPackedRows>(tile);
    case 2:
      return multiply_tile<T, 2, kPanels, kPackedRows>(tile);
    case 3:
      return multiply_tile<T, 3, kPanels, kPackedRows>(tile);
#if defined(__AVX__) || defined(__aarch64__)
    case 4:
      return multiply_tile<T, 4, kPanels, kPackedRows>(tile);
    case 5:
      return multiply_tile<T, 5, kPanels, kPackedRows>(tile);
    case 6:
      return multiply_tile<T, 6, kPanels, kPackedRows>(tile);
#endif
#if defined(__AVX512F__)
    case 7:
      return multiply_tile<T, 7, kPanels, kPackedRows>(tile);
    case 8:
      return multiply_tile<T, 8, kPanels, kPackedRows>(tile);
#endif
  }
}

// rows in [1, kTileRows], panels in [1, kTilePanels].
template <typename T, bool kPackedRows>
void multiply(const Tile<T>& tile, int64_t rows, int64_t panels) {
#if defined(__AVX512F__)
  if (panels == 3) return multiply_rows<T, 3, kPackedRows>(tile, rows);
  if (panels == 2) return multiply_rows<T, 2, kPackedRows>(tile, rows);
#endif
  (void)panels;
  multiply_rows<T, 1, kPackedRows>(tile, rows);
}

// to[panel][k][j] = from(panel * kPanel + j, k) for one panel; columns beyond `columns` are zero.
template <typename T, typename From>
void pack_panel(int64_t panel, int64_t columns, int64_t depth, From&& from, T* to) {
  for (int64_t j = 0; j < kPanel<T>; ++j) {
    const int64_t column = panel * kPanel<T> + j;
    if (column < columns) {
      for (int64_t k = 0; k < depth; ++k) to[k * kPanel<T> + j] = from(column, k);
    } else {
      for (int64_t k = 0; k < depth; ++k) to[k * kPanel<T> + j] = T(0);
    }
  }
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
