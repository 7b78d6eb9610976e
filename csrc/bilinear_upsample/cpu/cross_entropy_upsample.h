#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "axis.h"
#include "block_softmax.h"
#include "planes.h"

// Cross-entropy of the upsampled logits, and its gradient at the source samples: the upsampled
// logits of one block exist at a time.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename T>
class CrossEntropyUpsample {
 public:
  using V = Vec<T, 8>;

  CrossEntropyUpsample(const CrossEntropyTask& task, const ScoreLayout& layout,
                       const UpsampleGeometry& geometry, const Planes<const T>& scores)
      : task_(task),
        g_(geometry),
        rows_(geometry),
        blocks_(column_blocks<T>(geometry)),
        scores_(scores),
        batch_(layout.batch),
        cells_(static_cast<int64_t>(rows_.cells.size())),
        sums_(batch_ * cells_),
        wrong_(kNone) {}

  // Adds the gradient of the sum of the losses to `grad`, where there is one.
  CrossEntropySums run(const Planes<T>* grad, Parallel parallel) {
    if (grad) {
      for_cells_that_add(batch_, cells_, parallel, [&](int64_t image, int64_t cell) {
        sums_[image * cells_ + cell] = run_cell<true>(image, rows_.cells[cell], grad);
      });
    } else {
      parallel(batch_ * cells_, [&](int64_t i) {
        sums_[i] = run_cell<false>(i / cells_, rows_.cells[i % cells_], nullptr);
      });
    }
    CrossEntropySums total = {0.0, 0.0, 0, wrong_ == kNone ? -1 : wrong_.load()};
    for (const CrossEntropySums& sums : sums_) {  // in one order, whoever made them
      total.loss += sums.loss;
      total.weight += sums.weight;
      total.counted += sums.counted;
    }
    return total;
  }

 private:
  static constexpr int64_t kNone = INT64_MAX;

  // The labels of eight pixels and the weights of their losses, zero where there is none.
  struct Pixels {
    Index8 label;    // in [0, C)
    Index8 counted;  // 0 or -1
    V omega;
    bool uniform;  // all eight have one label, and count
  };

  // Per class the gradients at a block's columns, summed over its rows: for both source rows, and
  // for the higher one, in which they have the rows' weights.
  struct Columns {
    Buffer<T> both, high;  // (C, 8)
  };

  template <bool kGrad>
  CrossEntropySums run_cell(int64_t image, const CellRow& cell, const Planes<T>* grad) {
    const int64_t channels = scores_.channels;
    BlockSoftmax<T> softmax(scores_);
    Buffer<T> exponentials(channels * kSegmentRows * 8);
    Columns columns;
    if (kGrad) {
      columns.both.reset(channels * 8);
      columns.high.reset(channels * 8);
    }
    CrossEntropySums sums = {0.0, 0.0, 0, -1};
    for (const Block<T>& block : blocks_) {
      softmax.begin(image, cell, block);
      if (kGrad) {
        std::fill(&columns.both[0], &columns.both[0] + channels * 8, T{});
        std::fill(&columns.high[0], &columns.high[0] + channels * 8, T{});
      }
      for (const Segment& segment : cell.segments) {
        softmax.template exponentials<kGrad, 8>(segment, rows_.high_weight.data(),
                                                exponentials.data());
        run_segment<kGrad>(image, segment, block, softmax, exponentials.data(), columns, sums);
      }
      if (!kGrad) continue;
      for (int64_t c = 0; c < channels; ++c) {
        const V both = load<V>(&columns.both[c * 8]), high = load<V>(&columns.high[c * 8]);
        spread_row(both - high, block, grad->row(image, c, cell.low));
        spread_row(high, block, grad->row(image, c, cell.high));
      }
    }
    return sums;
  }

  template <bool kGrad>
  void run_segment(int64_t image, const Segment& segment, const Block<T>& block,
                   const BlockSoftmax<T>& softmax, const T* exponentials, Columns& columns,
                   CrossEntropySums& sums) {
    const int64_t rows = segment.end - segment.begin;
    Pixels pixels[kSegmentRows];
    V scale[kSegmentRows], high_scale[kSegmentRows];  // of the exponentials in the gradient
    V high_weights[kSegmentRows];
    Vec<double, 8> loss{}, weight{};
    Index8 counted{};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t y = segment.begin + r;
      const int64_t at = (image * g_.height + y) * g_.width + block.begin;
      const T high_weight = static_cast<T>(rows_.high_weight[y]);
      const T low_weight = static_cast<T>(1.0 - rows_.high_weight[y]);
      pixels[r] = read_pixels(at, block.count);
      const V sum = softmax.sum(r);
      V surprise =
          log_of(sum) + (softmax.offset(r) - softmax.logit(pixels[r].label, pixels[r].uniform,
                                                           low_weight, high_weight));
      surprise = surprise < 0 ? V{} : surprise;  // by rounding
      using Counted = decltype(sum > sum);
      const auto counts = __builtin_convertvector(pixels[r].counted, Counted);
      const V losses = counts ? pixels[r].omega * surprise : V{};
      if (task_.loss_map) store_map(losses, block.count, at);
      loss += __builtin_convertvector(losses, Vec<double, 8>);
      weight += __builtin_convertvector(pixels[r].omega, Vec<double, 8>);
      counted -= pixels[r].counted;
      if (kGrad) {
        if (task_.grad_map) pixels[r].omega *= read_map(task_.grad_map, at, block.count);
        pixels[r].omega = counts ? pixels[r].omega : V{};
        scale[r] = pixels[r].omega / sum;
        high_weights[r] = broadcast<V>(high_weight);
        high_scale[r] = scale[r] * high_weight;
      }
    }
    for (int j = 0; j < 8; ++j) {
      sums.loss += loss[j];
      sums.weight += weight[j];
      sums.counted += counted[j];
    }
    if (!kGrad) return;
    add_probs(exponentials, rows, scale, high_scale, columns);
    for (int64_t r = 0; r < rows; ++r) {
      take_label(pixels[r], pixels[r].omega, pixels[r].omega * high_weights[r], columns);
    }
  }

  void add_probs(const T* exponentials, int64_t rows, const V* scale, const V* high_scale,
                 Columns& columns) const {
    for (int64_t c = 0; c < scores_.channels; ++c) {
      V both = load<V>(&columns.both[c * 8]), high = load<V>(&columns.high[c * 8]);
      const T* at = exponentials + c * kSegmentRows * 8;
      for (int64_t r = 0; r < rows; ++r) {
        const V power = load<V>(at + r * 8);
        both += scale[r] * power;
        high += high_scale[r] * power;
      }
      store(&columns.both[c * 8], both);
      store(&columns.high[c * 8], high);
    }
  }

  static void take_label(const Pixels& pixels, V both, V high, Columns& columns) {
    if (pixels.uniform) {
      const int64_t at = int64_t{pixels.label[0]} * 8;
      store(&columns.both[at], load<V>(&columns.both[at]) - both);
      store(&columns.high[at], load<V>(&columns.high[at]) - high);
      return;
    }
    for (int j = 0; j < 8; ++j) {
      const int64_t at = int64_t{pixels.label[j]} * 8 + j;
      columns.both[at] -= both[j];
      columns.high[at] -= high[j];
    }
  }

  Pixels read_pixels(int64_t at, int64_t count) {
    return task_.byte_labels ? read_labels(static_cast<const uint8_t*>(task_.labels), at, count)
                             : read_labels(static_cast<const int64_t*>(task_.labels), at, count);
  }

  template <typename Label>
  Pixels read_labels(const Label* labels, int64_t at, int64_t count) {
    using Wide = Vec<int64_t, 8>;
    constexpr Index8 kLane = {0, 1, 2, 3, 4, 5, 6, 7};
    Vec<Label, 8> read{};
    if (count == 8) {
      read = load<Vec<Label, 8>>(labels + at);
    } else {
      for (int64_t j = 0; j < count; ++j) read[j] = labels[at + j];
    }
    const Wide label = __builtin_convertvector(read, Wide);
    const Index8 present = kLane < static_cast<int32_t>(count);
    const auto ignored = __builtin_convertvector(label == task_.ignore_index, Index8);
    const auto known = __builtin_convertvector((label >= 0) & (label < scores_.channels), Index8);
    if (any_of(present & ~known & ~ignored)) {
      for (int64_t j = 0; j < count; ++j) {
        if (!known[j] && !ignored[j]) note_wrong(at + j);
      }
    }
    Pixels pixels;
    pixels.counted = present & known & ~ignored;
    pixels.label = __builtin_convertvector(label, Index8) & pixels.counted;
    pixels.uniform = !any_of(~pixels.counted | (pixels.label != pixels.label[0]));
    pixels.omega = omega_of(pixels, at, count);
    return pixels;
  }

  V omega_of(const Pixels& pixels, int64_t at, int64_t count) const {
    V omega = broadcast<V>(T{1});
    if (task_.weight) {
      const T* weight = static_cast<const T*>(task_.weight);
      for (int j = 0; j < 8; ++j) omega[j] = weight[pixels.label[j]];
    }
    if (task_.pixel_weight) omega *= read_map(task_.pixel_weight, at, count);
    using Counted = decltype(omega > omega);
    return __builtin_convertvector(pixels.counted, Counted) ? omega : V{};
  }

  static V read_map(const void* map, int64_t at, int64_t count) {
    const T* from = static_cast<const T*>(map) + at;
    if (count == 8) return load<V>(from);
    V value{};
    for (int64_t j = 0; j < count; ++j) value[j] = from[j];
    return value;
  }

  void store_map(V value, int64_t count, int64_t at) const {
    T* to = static_cast<T*>(task_.loss_map) + at;
    if (count == 8) return store(to, value);
    for (int64_t j = 0; j < count; ++j) to[j] = value[j];
  }

  // The first of them, whichever thread finds it.
  void note_wrong(int64_t at) {
    int64_t seen = wrong_.load();
    while (at < seen && !wrong_.compare_exchange_weak(seen, at)) {
    }
  }

  const CrossEntropyTask task_;
  const UpsampleGeometry g_;
  const RowTable rows_;
  const std::vector<Block<T>> blocks_;
  const Planes<const T> scores_;
  const int64_t batch_, cells_;
  std::vector<CrossEntropySums> sums_;  // of each image and cell
  std::atomic<int64_t> wrong_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
