#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "axis.h"
#include "planes.h"

// The class of the largest upsampled logit, without the upsampled logits.
//
// Between four samples bilinear interpolation takes averages: a class that leads at all four
// leads everywhere between them, and one that trails another at all four leads nowhere. Only the
// classes that are left are interpolated. A value takes its class along in the lowest bits of its
// mantissa, so that one comparison keeps both. Where two classes come closer than the bits that are
// left can tell apart, and where a sample is infinite or NaN, the pixel is decided in double
// precision.
namespace fastseg {
namespace FASTSEG_ISA {

inline void store_labels(Index8 labels, int64_t* to) {
  store(to, __builtin_convertvector(labels, Vec<int64_t, 8>));
}
inline void store_labels(Index8 labels, uint8_t* to) {
#if defined(__AVX512VL__)
  _mm256_mask_cvtepi32_storeu_epi8(to, 0xff, (__m256i)labels);
#elif defined(__AVX2__)
  const __m128i low = _mm256_castsi256_si128((__m256i)labels);
  const __m128i high = _mm256_extracti128_si256((__m256i)labels, 1);
  const __m128i words = _mm_packus_epi32(low, high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
#else
  for (int j = 0; j < 8; ++j) to[j] = static_cast<uint8_t>(labels[j]);
#endif
}

// One bit a lane: whether a < b, or a <= b where kOrEqual, in both pairs.
template <bool kOrEqual>
inline uint32_t trailing_lanes(Vec<float, 8> a, Vec<float, 8> b, Vec<float, 8> c, Vec<float, 8> d) {
#if defined(__AVX512VL__)
  constexpr int kOrder = kOrEqual ? _CMP_LE_OQ : _CMP_LT_OQ;
  return _mm256_mask_cmp_ps_mask(_mm256_cmp_ps_mask((__m256)a, (__m256)b, kOrder), (__m256)c,
                                 (__m256)d, kOrder);
#elif defined(__AVX__)
  constexpr int kOrder = kOrEqual ? _CMP_LE_OQ : _CMP_LT_OQ;
  return _mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps((__m256)a, (__m256)b, kOrder),
                                          _mm256_cmp_ps((__m256)c, (__m256)d, kOrder)));
#else
  const Index8 trails = kOrEqual ? (a <= b) & (c <= d) : (a < b) & (c < d);
  uint32_t lanes = 0;
  for (int j = 0; j < 8; ++j) lanes |= trails[j] & (1u << j);
  return lanes;
#endif
}
template <bool kOrEqual>
inline uint32_t trailing_lanes(Vec<double, 8> a, Vec<double, 8> b, Vec<double, 8> c,
                               Vec<double, 8> d) {
  uint32_t lanes = 0;
  for (int j = 0; j < 8; ++j) {
    const bool trails = kOrEqual ? a[j] <= b[j] && c[j] <= d[j] : a[j] < b[j] && c[j] < d[j];
    lanes |= uint32_t{trails} << j;
  }
  return lanes;
}

template <typename T, typename Label>
class LabelUpsample {
 public:
  using V = Vec<T, 8>;

  LabelUpsample(const ScoreLayout& layout, const UpsampleGeometry& geometry,
                const Planes<const T>& scores)
      : g_(geometry),
        rows_(geometry),
        blocks_(column_blocks<T>(geometry)),
        scores_(scores),
        batch_(layout.batch),
        class_bits_(scores.channels > 1 ? 64 - __builtin_clzll(scores.channels - 1) : 0) {
    const double step = sample_step(g_.source_width, g_.width, g_.align_corners, g_.scale_width);
    for (int64_t x = 0; x < g_.width; ++x) {
      columns_.push_back(sample_taps(x, g_.source_width, g_.width, g_.align_corners, step));
    }
  }

  void run(Label* labels, Parallel parallel) {
    leaders_.reset(batch_ * scores_.plane());
    magnitudes_.reset(batch_ * scores_.plane());
    parallel(batch_ * scores_.rows,
             [&](int64_t task) { find_leaders(task / scores_.rows, task % scores_.rows); });
    const int64_t cells = static_cast<int64_t>(rows_.cells.size());
    parallel(batch_ * cells, [&](int64_t task) {
      const int64_t image = task / cells;
      label_cell(image, rows_.cells[task % cells], labels + image * g_.height * g_.width);
    });
  }

 private:
  static constexpr int32_t kUnsafe = -1;  // a sample that is not finite, or too large
  static constexpr T kLargest = T(1e37);  // sums of such samples do not overflow

  // What sums may be off by, of the largest sample; with more bits for the class than this many,
  // every pixel would be in doubt.
  static constexpr double kRounding = 4e-6;
  static constexpr int kMostClassBits = 16;
#if defined(__AVX512VL__)
  static constexpr int kRowsAtOnce = 8;  // of sums in 32 registers
#else
  static constexpr int kRowsAtOnce = 4;
#endif

  // What one task needs for the classes that may lead in a block.
  struct Scratch {
    Buffer<int32_t> all, listed;  // every class; those listed for the block
    const int32_t* classes = nullptr;
    Buffer<T> low, rise;     // (classes, 8): logit beside the lower source row, and what is added
    Buffer<int32_t> labels;  // (rows of the cell, padded columns)
    int64_t count = 0;
  };
  int64_t padded_width() const { return static_cast<int64_t>(blocks_.size()) * 8; }

  // Per source sample the class of the largest logit, the lowest of equal ones, or kUnsafe, and
  // the largest magnitude.
  void find_leaders(int64_t image, int64_t y) {
    using Bits = std::conditional_t<std::is_same_v<T, double>, Vec<int64_t, 8>, Index8>;
    constexpr auto kMagnitude =
        std::numeric_limits<std::remove_reference_t<decltype(Bits{}[0])>>::max();
    for (int64_t x = 0; x < scores_.pitch; x += 8) {
      const int64_t begin = std::min(x, scores_.pitch - 8);
      const T* sample = scores_.row(image, 0, y) + begin;
      V best = load<V>(sample);
      Index8 leader{};
      Bits extreme = (Bits)best & kMagnitude;  // as integers they compare alike, NaN above all
      for (int32_t c = 1; c < scores_.channels; ++c) {
        const V value = load<V>(sample + c * scores_.plane());
        const auto higher = value > best;
        best = higher ? value : best;
        leader = __builtin_convertvector(higher, Index8) ? broadcast<Index8>(c) : leader;
        const Bits magnitude = (Bits)value & kMagnitude;
        extreme = magnitude > extreme ? magnitude : extreme;
      }
      const Index8 safe = __builtin_convertvector((V)extreme < kLargest, Index8);
      const int64_t at = image * scores_.plane() + y * scores_.pitch + begin;
      store(leaders_.data() + at, safe ? leader : broadcast<Index8>(kUnsafe));
      store(magnitudes_.data() + at, (V)extreme);
    }
  }

  void label_cell(int64_t image, const CellRow& cell, Label* labels) const {
    const int64_t channels = scores_.channels;
    Scratch scratch;
    scratch.listed.reset(channels);
    scratch.all.reset(channels);
    std::iota(scratch.all.data(), scratch.all.data() + channels, 0);
    scratch.low.reset(channels * 8);
    scratch.rise.reset(channels * 8);
    scratch.labels.reset((cell.end - cell.begin) * padded_width());
    const int32_t* leaders = leaders_.data() + image * scores_.plane();
    const int32_t* low = leaders + cell.low * scores_.pitch;
    const int32_t* high = leaders + cell.high * scores_.pitch;
    for (const Block<T>& block : blocks_) {
      const int32_t leader = find_classes(image, cell, block, low, high, scratch);
      const bool exactly = std::is_same_v<T, double> || class_bits_ > kMostClassBits;
      if (leader == kUnsafe || (exactly && scratch.count > 1)) {
        label_exactly(image, cell, block, scratch);
      } else if (scratch.count == 1) {
        const Index8 all = broadcast<Index8>(leader);
        int32_t* to = &scratch.labels[block.begin];
        for (int64_t y = cell.begin; y < cell.end; ++y, to += padded_width()) store(to, all);
      } else if constexpr (std::is_same_v<T, float>) {
        label_block(image, cell, block, scratch);
      }
    }
    // Whole rows: the blocks' pieces would reach the memory as many short streams.
    for (int64_t y = cell.begin; y < cell.end; ++y) {
      const int32_t* from = &scratch.labels[(y - cell.begin) * padded_width()];
      Label* to = labels + y * g_.width;
      int64_t x = 0;
      for (; x + 8 <= g_.width; x += 8) {
        store_labels(load<Index8>(from + x), to + x);
      }
      for (; x < g_.width; ++x) to[x] = static_cast<Label>(from[x]);
    }
  }

  // Lists the classes that may lead somewhere in the block; returns the leader of its first
  // sample, or kUnsafe where not all samples are safe.
  int32_t find_classes(int64_t image, const CellRow& cell, const Block<T>& block,
                       const int32_t* low, const int32_t* high, Scratch& scratch) const {
    if (!block.windowed) return find_classes_apart(block, low, high, scratch);
    constexpr Index8 kLane = {0, 1, 2, 3, 4, 5, 6, 7};
    const Index8 lanes = (kLane >= block.first) & (kLane <= block.last);
    const Index8 low_leaders = load<Index8>(low + block.base);
    const Index8 high_leaders = load<Index8>(high + block.base);
    const int32_t leader = low_leaders[block.first];
    if (all_of((low_leaders == leader) & (high_leaders == leader), lanes)) {
      if (leader == kUnsafe) return list_all(scratch);
      scratch.listed[0] = leader;
      scratch.classes = scratch.listed.data();
      scratch.count = 1;
      return leader;
    }
    if (any_of(((low_leaders == kUnsafe) | (high_leaders == kUnsafe)) & lanes)) {
      return list_all(scratch);
    }
    const T* low_samples = scores_.row(image, 0, cell.low) + block.base;
    const T* high_samples = scores_.row(image, 0, cell.high) + block.base;
    int32_t corners[4] = {leader, high_leaders[block.last], high_leaders[block.first],
                          low_leaders[block.last]};
    if (are_distinct(corners)) {
      // Of so many none is likely to stay ahead of a class everywhere.
      list_all(scratch);
      return leader;
    }
    std::sort(corners, corners + 4);
    const int64_t leaders = std::unique(corners, corners + 4) - corners;
    const uint32_t bits = (2u << block.last) - (1u << block.first);
    list_ahead(corners[0], corners[leaders - 1], low_samples, high_samples, bits, scratch);
    if (leaders == 3 && scratch.count > 3) {
      drop_trailing(corners[1], low_samples, high_samples, bits, scratch);
    }
    return leader;
  }

  static bool are_distinct(const int32_t (&c)[4]) {
    return (c[0] != c[1]) & (c[0] != c[2]) & (c[0] != c[3]) & (c[1] != c[2]) & (c[1] != c[3]) &
           (c[2] != c[3]);
  }

  // Lists the classes that trail neither of two leaders, first <= second, at all samples of the
  // block, that is in all `lanes`. Equal ones trail where they come after the leader.
  void list_ahead(int32_t first, int32_t second, const T* low, const T* high, uint32_t lanes,
                  Scratch& scratch) const {
    const int64_t plane = scores_.plane();
    const V first_low = load<V>(low + first * plane), first_high = load<V>(high + first * plane);
    const V second_low = load<V>(low + second * plane);
    const V second_high = load<V>(high + second * plane);
    int32_t* classes = scratch.listed.data();
    scratch.classes = classes;
    int64_t kept = 0;
    const auto list = [&](int32_t begin, int32_t end, auto after_first, auto after_second) {
      for (int32_t c = begin; c < end; ++c) {
        const V a = load<V>(low + c * plane), b = load<V>(high + c * plane);
        const uint32_t ahead =
            (lanes & ~trailing_lanes<decltype(after_first)::value>(a, first_low, b, first_high)) &&
            (lanes & ~trailing_lanes<decltype(after_second)::value>(a, second_low, b, second_high));
        classes[kept] = c;
        kept += ahead;
      }
    };
    list(0, first, std::false_type(), std::false_type());
    classes[kept++] = first;
    list(first + 1, second, std::true_type(), std::false_type());
    if (second != first) classes[kept++] = second;
    list(second + 1, static_cast<int32_t>(scores_.channels), std::true_type(), std::true_type());
    scratch.count = kept;
  }

  // Drops the listed classes that trail `leader`.
  void drop_trailing(int32_t leader, const T* low, const T* high, uint32_t lanes,
                     Scratch& scratch) const {
    const int64_t plane = scores_.plane();
    const V low_lead = load<V>(low + leader * plane), high_lead = load<V>(high + leader * plane);
    int64_t kept = 0;
    for (int64_t i = 0; i < scratch.count; ++i) {
      const int32_t c = scratch.classes[i];
      const V a = load<V>(low + c * plane), b = load<V>(high + c * plane);
      const uint32_t trailing = c > leader ? trailing_lanes<true>(a, low_lead, b, high_lead)
                                           : trailing_lanes<false>(a, low_lead, b, high_lead);
      scratch.listed[kept] = c;
      kept += c == leader || (lanes & ~trailing) != 0;
    }
    scratch.count = kept;
  }

  // find_classes where the block's samples are not in one window: where the output is smaller.
  int32_t find_classes_apart(const Block<T>& block, const int32_t* low, const int32_t* high,
                             Scratch& scratch) const {
    list_all(scratch);
    for (int j = 0; j < 8; ++j) {
      for (const int64_t x : {block.base + block.low[j], block.base + block.high[j]}) {
        if (low[x] == kUnsafe || high[x] == kUnsafe) return kUnsafe;
      }
    }
    return low[block.base + block.low[0]];
  }

  int32_t list_all(Scratch& scratch) const {
    scratch.count = scores_.channels;
    scratch.classes = scratch.all.data();
    return kUnsafe;
  }

  void label_block(int64_t image, const CellRow& cell, const Block<T>& block,
                   Scratch& scratch) const {
    V corners[4];
    const T* magnitudes = magnitudes_.data() + image * scores_.plane();
    load_taps(magnitudes + cell.low * scores_.pitch, block, corners[0], corners[1]);
    load_taps(magnitudes + cell.high * scores_.pitch, block, corners[2], corners[3]);
    const V largest = larger(larger(corners[0], corners[1]), larger(corners[2], corners[3]));
    interpolate_columns(image, cell, block, largest, scratch);
    // Lifted sums are up to twice the largest sample, and their last bits stand for the class.
    const double of_bits = std::ldexp(4.0, class_bits_ - std::numeric_limits<T>::digits + 1);
    const V margin = largest * T(of_bits + kRounding) + std::numeric_limits<T>::min();
    int64_t y = cell.begin;
    for (; y + kRowsAtOnce <= cell.end; y += kRowsAtOnce) {
      label_rows<kRowsAtOnce>(image, cell, block, y, margin, scratch);
    }
    const int64_t left = cell.end - y;
    if (left & 4) label_rows<4>(image, cell, block, y, margin, scratch);
    y += left & 4;
    if (left & 2) label_rows<2>(image, cell, block, y, margin, scratch);
    y += left & 2;
    if (left & 1) label_rows<1>(image, cell, block, y, margin, scratch);
  }

  // Fills scratch.low and scratch.rise. No sum of them is negative: as integers they compare alike.
  void interpolate_columns(int64_t image, const CellRow& cell, const Block<T>& block, V largest,
                           Scratch& scratch) const {
    const T* low_samples = scores_.row(image, 0, cell.low);
    const T* high_samples = scores_.row(image, 0, cell.high);
    const Block<T> taps = block;  // in registers: no store below can change it
    const V lift = largest * T(1 + kRounding);
    const int64_t plane = scores_.plane(), count = scratch.count;
    const int32_t* classes = scratch.classes;
    T *to_low = scratch.low.data(), *to_rise = scratch.rise.data();
    for (int64_t i = 0; i < count; ++i, to_low += 8, to_rise += 8) {
      const int64_t at = classes[i] * plane;
      V left, right;
      load_taps(low_samples + at, taps, left, right);
      const V low = taps.low_weight * left + taps.high_weight * right;
      load_taps(high_samples + at, taps, left, right);
      const V high = taps.low_weight * left + taps.high_weight * right;
      store(to_low, low + lift);
      store(to_rise, high - low);
    }
  }

  template <int kRows>
  void label_rows(int64_t image, const CellRow& cell, const Block<T>& block, int64_t y, V margin,
                  Scratch& scratch) const {
    const Index8 of_class = broadcast<Index8>((1 << class_bits_) - 1);
    V weight[kRows];
    Index8 best[kRows], second[kRows];
    for (int r = 0; r < kRows; ++r) {
      weight[r] = broadcast<V>(static_cast<T>(rows_.high_weight[y + r]));
      best[r] = Index8{};
      second[r] = Index8{};
    }
    const T *low_of = scratch.low.data(), *rise_of = scratch.rise.data();
    for (int64_t i = 0; i < scratch.count; ++i, low_of += 8, rise_of += 8) {
      const V low = load<V>(low_of), rise = load<V>(rise_of);
      const Index8 c = broadcast<Index8>(scratch.classes[i]);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Index8 value = ((Index8)(low + weight[r] * rise) & ~of_class) | c;
        second[r] = larger(second[r], smaller(best[r], value));
        best[r] = larger(best[r], value);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = &scratch.labels[(y + r - cell.begin) * padded_width() + block.begin];
      store(to, best[r] & of_class);
      const Index8 doubtful = (V)best[r] - (V)second[r] <= margin;
      if (any_of(doubtful)) {
        for (int64_t j = 0; j < block.count; ++j) {
          if (doubtful[j]) to[j] = exact_label(image, cell, y + r, block.begin + j, scratch);
        }
      }
    }
  }

  void label_exactly(int64_t image, const CellRow& cell, const Block<T>& block,
                     Scratch& scratch) const {
    for (int64_t y = cell.begin; y < cell.end; ++y) {
      int32_t* to = &scratch.labels[(y - cell.begin) * padded_width()];
      for (int64_t x = block.begin; x < block.begin + block.count; ++x) {
        to[x] = exact_label(image, cell, y, x, scratch);
      }
    }
  }

  // Among the listed classes.
  int32_t exact_label(int64_t image, const CellRow& cell, int64_t y, int64_t x,
                      const Scratch& scratch) const {
    const Taps& taps = columns_[x];
    const double right = taps.high_weight, left = 1.0 - right;
    const double below = rows_.high_weight[y], above = 1.0 - below;
    int32_t label = scratch.classes[0];
    double best = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < scratch.count; ++i) {
      const int32_t c = scratch.classes[i];
      const T* low = scores_.row(image, c, cell.low);
      const T* high = scores_.row(image, c, cell.high);
      const double value =
          above * (left * double(low[taps.low]) + right * double(low[taps.high])) +
          below * (left * double(high[taps.low]) + right * double(high[taps.high]));
      if (value != value) return c;
      if (value > best) {
        best = value;
        label = c;
      }
    }
    return label;
  }

  const UpsampleGeometry g_;
  const RowTable rows_;
  const std::vector<Block<T>> blocks_;
  const Planes<const T> scores_;
  const int64_t batch_;
  const int class_bits_;
  std::vector<Taps> columns_;
  Buffer<int32_t> leaders_;  // (B, h, pitch)
  Buffer<T> magnitudes_;     // likewise
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
