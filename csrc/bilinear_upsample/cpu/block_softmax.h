#pragma once

#include <cstdint>
#include <type_traits>

#include "../../common/buffer.h"
#include "axis.h"
#include "exp_log.h"
#include "planes.h"

// The softmax of upsampled logits, block by block: at most eight columns of at most eight rows
// between the same two source rows.
//
// Along a column the logit of a class is linear in the row, so that its exponential grows by the
// same factor from row to row: two exponentials a class and column serve all rows.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename T>
class BlockSoftmax {
 public:
  using V = Vec<T, 8>;

  BlockSoftmax(const Planes<const T>& scores)
      : scores_(scores), channels_(scores.channels), logits_(16 * scores.channels) {}

  // The logits of a block beside both source rows of a cell.
  void begin(int64_t image, const CellRow& cell, const Block<T>& block) {
    const T* low = scores_.row(image, 0, cell.low);
    const T* high = scores_.row(image, 0, cell.high);
    V lowest{}, highest{};
    for (int64_t c = 0; c < channels_; ++c) {
      const V a = interpolate_row(low + c * scores_.plane(), block);
      const V b = interpolate_row(high + c * scores_.plane(), block);
      store(low_logits(c), a);
      store(high_logits(c), b);
      const V less = smaller(a, b), more = larger(a, b);
      lowest = c == 0 ? less : smaller(less, lowest);
      highest = c == 0 ? more : larger(more, highest);
    }
    highest_ = highest;
    narrow_ = all_of(__builtin_convertvector(highest - lowest < kWidest, Index8), Index8{} - 1);
  }

  // exponentials (C, 8 rows, kPitch) = exp(logit - offset) of the segment's rows, and their sums;
  // high_weights are those of all output rows. Without kStore the sums alone: `exponentials` is
  // scratch.
  template <bool kStore, int64_t kPitch>
  void exponentials(const Segment& segment, const double* high_weights, T* exponentials) {
    const int64_t rows = segment.end - segment.begin;
    // For one or two rows nothing is saved. Double precision is for judging by.
    if (std::is_same_v<T, double> || !narrow_ || rows <= 2) {
      return each_row<kPitch>(high_weights + segment.begin, rows, exponentials);
    }
    switch (rows) {
      case 3:
        return all_rows<3, kStore, kPitch>(segment, exponentials);
      case 4:
        return all_rows<4, kStore, kPitch>(segment, exponentials);
      case 5:
        return all_rows<5, kStore, kPitch>(segment, exponentials);
      case 6:
        return all_rows<6, kStore, kPitch>(segment, exponentials);
      case 7:
        return all_rows<7, kStore, kPitch>(segment, exponentials);
      default:
        return all_rows<8, kStore, kPitch>(segment, exponentials);
    }
  }
  V sum(int64_t row) const { return sum_[row]; }
  V offset(int64_t row) const { return offset_[row]; }

  // The logits of each lane's class, as each_row() has them; `uniform` says that all are one.
  V logit(Index8 classes, bool uniform, T low_weight, T high_weight) const {
    V low{}, high{};
    if (uniform) {
      const T* at = logits_.data() + int64_t{classes[0]} * 16;
      low = load<V>(at);
      high = load<V>(at + 8);
    } else {
      for (int j = 0; j < 8; ++j) {
        const T* at = logits_.data() + int64_t{classes[j]} * 16 + j;
        low[j] = at[0];
        high[j] = at[8];
      }
    }
    return low_weight * low + high_weight * high;
  }

 private:
  // Spread of the logits of a block within which no exponential is lost.
  static constexpr T kWidest = T(80);

  T* low_logits(int64_t c) { return logits_.data() + c * 16; }
  T* high_logits(int64_t c) { return logits_.data() + c * 16 + 8; }

  template <int kRows, bool kStore, int64_t kPitch>
  void all_rows(const Segment& segment, T* exponentials) {
    const V first = broadcast<V>(static_cast<T>(segment.first_weight));
    const V step = broadcast<V>(static_cast<T>(segment.step));
    V sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = V{};
    const V highest = highest_;
    for (int64_t c = 0; c < channels_; ++c) {
      const V low = load<V>(low_logits(c));
      const V rise = load<V>(high_logits(c)) - low;
      V power = exp_of((low - highest) + first * rise);
      const V factor = exp_of(step * rise);
      for (int r = 0; r < kRows; ++r) {
        if (kStore) store(exponentials + (c * kSegmentRows + r) * kPitch, power);
        sum[r] += power;
        power *= factor;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      sum_[r] = sum[r];
      offset_[r] = highest;
    }
  }

  template <int64_t kPitch>
  void each_row(const double* high_weights, int64_t rows, T* exponentials) {
    for (int64_t r = 0; r < rows; ++r) {
      const T high_weight = static_cast<T>(high_weights[r]);
      const T low_weight = static_cast<T>(1.0 - high_weights[r]);
      V highest{};
      for (int64_t c = 0; c < channels_; ++c) {
        const V value = low_weight * load<V>(low_logits(c)) + high_weight * load<V>(high_logits(c));
        highest = c == 0 ? value : larger(value, highest);
        store(exponentials + (c * kSegmentRows + r) * kPitch, value);
      }
      V sum{};
      for (int64_t c = 0; c < channels_; ++c) {
        T* at = exponentials + (c * kSegmentRows + r) * kPitch;
        const V power = exp_of(load<V>(at) - highest);
        store(at, power);
        sum += power;
      }
      sum_[r] = sum;
      offset_[r] = highest;
    }
  }

  const Planes<const T> scores_;
  const int64_t channels_;
  Buffer<T> logits_;  // (C, 2, 8): beside the lower and the higher source row
  V highest_;
  bool narrow_ = false;
  V sum_[kSegmentRows], offset_[kSegmentRows];
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
