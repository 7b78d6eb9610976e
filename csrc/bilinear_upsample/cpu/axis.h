#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../../common/simd.h"
#include "../axis_math.h"
#include "../bilinear_upsample.h"

// Tables of both axes: output rows grouped by the source rows that they lie between, and output
// columns in blocks of one vector.
namespace fastseg {
namespace FASTSEG_ISA {

using Index8 = Vec<int32_t, 8>;

// Consecutive output rows whose weights rise evenly: row begin + i takes
// first_weight + i * step of the higher source row.
struct Segment {
  int64_t begin, end;
  double first_weight, step;
};

constexpr int64_t kSegmentRows = 8;

// All output rows between the same two source rows.
struct CellRow {
  int64_t low, high;
  int64_t begin, end;
  std::vector<Segment> segments;
};

struct RowTable {
  std::vector<CellRow> cells;
  std::vector<double> high_weight;  // (H)

  explicit RowTable(const UpsampleGeometry& g) {
    const double step = sample_step(g.source_height, g.height, g.align_corners, g.scale_height);
    for (int64_t y = 0; y < g.height; ++y) {
      const Taps taps = sample_taps(y, g.source_height, g.height, g.align_corners, step);
      high_weight.push_back(taps.high_weight);
      if (cells.empty() || cells.back().low != taps.low) {
        cells.push_back({taps.low, taps.high, y, y, {}});
      }
      append(cells.back(), y);
    }
  }

 private:
  static constexpr double kEven = 1e-9;  // of one source sample

  void append(CellRow& cell, int64_t y) {
    cell.end = y + 1;
    const double weight = high_weight[y];
    if (!cell.segments.empty()) {
      Segment& last = cell.segments.back();
      const int64_t rows = y - last.begin;
      const double step = weight - high_weight[y - 1];
      if (rows < kSegmentRows && (rows == 1 || std::fabs(step - last.step) < kEven)) {
        last.end = y + 1;
        last.step = (weight - last.first_weight) / double(rows);
        return;
      }
    }
    cell.segments.push_back({y, y + 1, weight, 0.0});
  }
};

// Eight output columns and the source samples that they lie between.
template <typename T>
struct Block {
  int64_t begin;        // first output column
  int64_t count;        // columns, eight but for the last block; its other lanes repeat the last
  int64_t base;         // first sample of the window
  bool windowed;        // whether all samples lie in the eight of the window
  Index8 low, high;     // samples of each lane, from `base` on
  int32_t first, last;  // lowest and highest of them
  Vec<T, 8> low_weight, high_weight;
  Vec<T, 8> spread[8];  // for each lane what it takes of each sample of the window; 0 beyond count
};

template <typename T>
std::vector<Block<T>> column_blocks(const UpsampleGeometry& g) {
  const double step = sample_step(g.source_width, g.width, g.align_corners, g.scale_width);
  std::vector<Block<T>> blocks((g.width + 7) / 8);
  for (size_t b = 0; b < blocks.size(); ++b) {
    Block<T>& block = blocks[b];
    block.begin = static_cast<int64_t>(b) * 8;
    block.count = std::min<int64_t>(8, g.width - block.begin);
    Taps taps[8];
    for (int64_t j = 0; j < 8; ++j) {
      const int64_t x = std::min(block.begin + j, g.width - 1);
      taps[j] = sample_taps(x, g.source_width, g.width, g.align_corners, step);
    }
    // Planes are padded to eight columns, so that a window fits into the narrowest.
    block.base = std::min(taps[0].low, std::max<int64_t>(0, g.source_width - 8));
    block.windowed = taps[7].high - block.base < 8;
    if (!block.windowed) block.base = taps[0].low;
    block.first = static_cast<int32_t>(taps[0].low - block.base);
    block.last = static_cast<int32_t>(taps[7].high - block.base);
    for (int j = 0; j < 8; ++j) {
      block.low[j] = static_cast<int32_t>(taps[j].low - block.base);
      block.high[j] = static_cast<int32_t>(taps[j].high - block.base);
      block.low_weight[j] = static_cast<T>(1.0 - taps[j].high_weight);
      block.high_weight[j] = static_cast<T>(taps[j].high_weight);
      block.spread[j] = Vec<T, 8>{};
      if (!block.windowed || j >= block.count) continue;
      block.spread[j][block.low[j]] += block.low_weight[j];
      block.spread[j][block.high[j]] += block.high_weight[j];
    }
  }
  return blocks;
}

// The samples at block.low and block.high of a row of a plane.
template <typename T>
inline void load_taps(const T* row, const Block<T>& block, Vec<T, 8>& low, Vec<T, 8>& high) {
  const T* samples = row + block.base;
#if defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    if (block.windowed) {
      const __m256 window = _mm256_loadu_ps(samples);
      low = (Vec<T, 8>)_mm256_permutevar8x32_ps(window, (__m256i)block.low);
      high = (Vec<T, 8>)_mm256_permutevar8x32_ps(window, (__m256i)block.high);
      return;
    }
  }
#endif
  Vec<T, 8> low_samples{}, high_samples{};
  for (int j = 0; j < 8; ++j) {
    low_samples[j] = samples[block.low[j]];
    high_samples[j] = samples[block.high[j]];
  }
  low = low_samples;
  high = high_samples;
}

// A row of a plane at the block's columns. A sample of weight zero counts: infinity gives NaN
// there, as in torch.
template <typename T>
inline Vec<T, 8> interpolate_row(const T* row, const Block<T>& block) {
  Vec<T, 8> low, high;
  load_taps(row, block, low, high);
  return block.low_weight * low + block.high_weight * high;
}

// Whether all of the lanes that `lanes` (0 or -1) names are set in `truth`.
inline bool all_of(Index8 truth, Index8 lanes) {
#if defined(__AVX__)
  return _mm256_testc_si256((__m256i)truth, (__m256i)lanes) != 0;
#else
  int32_t missing = 0;
  for (int j = 0; j < 8; ++j) missing |= lanes[j] & ~truth[j];
  return missing == 0;
#endif
}

inline bool any_of(Index8 truth) {
#if defined(__AVX__)
  return _mm256_testz_si256((__m256i)truth, (__m256i)truth) == 0;
#else
  int32_t any = 0;
  for (int j = 0; j < 8; ++j) any |= truth[j];
  return any != 0;
#endif
}

// The larger and the smaller, or b where either is NaN, in one instruction where there is one.
template <typename V>
inline V larger(V a, V b) {
#if defined(__AVX__)
  if constexpr (std::is_same_v<V, Vec<float, 8>>) return (V)_mm256_max_ps((__m256)a, (__m256)b);
#endif
  return a > b ? a : b;
}
template <typename V>
inline V smaller(V a, V b) {
#if defined(__AVX__)
  if constexpr (std::is_same_v<V, Vec<float, 8>>) return (V)_mm256_min_ps((__m256)a, (__m256)b);
#endif
  return a < b ? a : b;
}

template <typename V>
inline bool all_finite(V values) {
  const V zero = values - values;
#if defined(__AVX__)
  if constexpr (std::is_same_v<V, Vec<float, 8>>) {
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)zero, (__m256)zero, _CMP_UNORD_Q)) == 0;
  }
#endif
  bool all = true;
  for (int j = 0; j < 8; ++j) all &= zero[j] == 0;
  return all;
}

// The transpose of interpolate_row: adds `values` to the samples that they came from.
template <typename T>
inline void spread_row(const Vec<T, 8>& values, const Block<T>& block, T* row) {
  T* samples = row + block.base;
  if (block.windowed && all_finite(values)) {
    Vec<T, 8> sums[2] = {values[0] * block.spread[0], values[1] * block.spread[1]};
    for (int j = 2; j < 8; j += 2) {
      sums[0] += values[j] * block.spread[j];
      sums[1] += values[j + 1] * block.spread[j + 1];
    }
    store(samples, load<Vec<T, 8>>(samples) + (sums[0] + sums[1]));
    return;
  }
  for (int64_t j = 0; j < block.count; ++j) {
    samples[block.low[j]] += block.low_weight[j] * values[j];
    samples[block.high[j]] += block.high_weight[j] * values[j];
  }
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
