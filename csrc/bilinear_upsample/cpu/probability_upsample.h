#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "axis.h"
#include "block_softmax.h"
#include "planes.h"

// Softmax of the upsampled logits, and its gradient at the source samples.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename S>
class ProbabilityUpsample {
 public:
  using T = Arithmetic<S>;
  using V = Vec<T, 8>;

  ProbabilityUpsample(const ScoreLayout& layout, const UpsampleGeometry& geometry)
      : layout_(layout),
        g_(geometry),
        rows_(geometry),
        blocks_(column_blocks<T>(geometry)),
        cells_(static_cast<int64_t>(rows_.cells.size())) {}

  void forward(const Planes<const T>& scores, S* probs, Parallel parallel) const {
    parallel(layout_.batch * cells_, [&](int64_t task) {
      forward_cell(scores, task / cells_, rows_.cells[task % cells_], probs);
    });
  }

  // sums += the transpose of upsampling, of probs * (grad - sum over classes of probs * grad).
  void backward(const S* grad, const S* probs, const Planes<T>& sums, Parallel parallel) const {
    for_cells_that_add(layout_.batch, cells_, parallel, [&](int64_t image, int64_t cell) {
      backward_cell(grad, probs, image, rows_.cells[cell], sums);
    });
  }

 private:
  // Columns that are written together: long runs of each plane, while their exponentials stay in
  // the second-level cache. The pitch of these keeps them apart in the first-level one.
  static constexpr int64_t kChunk = 256, kPitch = kChunk + 8;

  struct Chunk {
    int64_t begin, columns;
    Buffer<T> exponentials;  // (C, 8 rows, kPitch)
    Buffer<T> inverse;       // (8 rows, kChunk): what makes them sum to one
  };

  void forward_cell(const Planes<const T>& scores, int64_t image, const CellRow& cell,
                    S* probs) const {
    BlockSoftmax<T> softmax(scores);
    Chunk chunk;
    chunk.exponentials.reset(layout_.channels * kSegmentRows * kPitch);
    chunk.inverse.reset(kSegmentRows * kChunk);
    for (const Segment& segment : cell.segments) {
      const int64_t rows = segment.end - segment.begin;
      for (chunk.begin = 0; chunk.begin < g_.width; chunk.begin += kChunk) {
        chunk.columns = std::min(kChunk, g_.width - chunk.begin);
        for (int64_t x = 0; x < chunk.columns; x += 8) {
          softmax.begin(image, cell, blocks_[(chunk.begin + x) / 8]);
          softmax.template exponentials<true, kPitch>(segment, rows_.high_weight.data(),
                                                      chunk.exponentials.data() + x);
          for (int64_t r = 0; r < rows; ++r) {
            store(&chunk.inverse[r * kChunk + x], 1 / softmax.sum(r));
          }
        }
        if (layout_.channels_last) {
          write_pixels(chunk, image, segment.begin, rows, probs);
        } else {
          write_planes(chunk, image, segment.begin, rows, probs);
        }
      }
    }
  }

  // The chunk's `rows` rows from y on.
  void write_planes(const Chunk& chunk, int64_t image, int64_t y, int64_t rows, S* probs) const {
    for (int64_t c = 0; c < layout_.channels; ++c) {
      for (int64_t r = 0; r < rows; ++r) {
        const T* power = chunk.exponentials.data() + (c * kSegmentRows + r) * kPitch;
        const T* inverse = chunk.inverse.data() + r * kChunk;
        S* to =
            probs + ((image * layout_.channels + c) * g_.height + y + r) * g_.width + chunk.begin;
        int64_t x = 0;
        if constexpr (std::is_same_v<S, T>) {
          for (; x + 8 <= chunk.columns; x += 8) {
            store(to + x, load<V>(power + x) * load<V>(inverse + x));
          }
        }
        for (; x < chunk.columns; ++x) narrow(power[x] * inverse[x], to[x]);
      }
    }
  }

  // Likewise with the classes of a pixel side by side.
  void write_pixels(const Chunk& chunk, int64_t image, int64_t y, int64_t rows, S* probs) const {
    const int64_t channels = layout_.channels;
    for (int64_t r = 0; r < rows; ++r) {
      const T* powers = chunk.exponentials.data() + r * kPitch;
      S* row = probs + ((image * g_.height + y + r) * g_.width + chunk.begin) * channels;
      for (int64_t x = 0; x < chunk.columns; x += 8) {
        const int64_t count = std::min<int64_t>(8, chunk.columns - x);
        const V inverse = load<V>(&chunk.inverse[r * kChunk + x]);
        int64_t c = 0;
        if constexpr (std::is_same_v<S, float>) {
          for (; c + 8 <= channels; c += 8) {
            V values[8], pixels[8];
            for (int64_t i = 0; i < 8; ++i) {
              values[i] = load<V>(powers + (c + i) * kSegmentRows * kPitch + x) * inverse;
            }
            transpose8(values, pixels);
            for (int64_t j = 0; j < count; ++j) store(row + (x + j) * channels + c, pixels[j]);
          }
        }
        for (; c < channels; ++c) {
          const V value = load<V>(powers + c * kSegmentRows * kPitch + x) * inverse;
          for (int64_t j = 0; j < count; ++j) narrow(value[j], row[(x + j) * channels + c]);
        }
      }
    }
  }

  // What a task sums over the rows of a cell: (C, columns) for the lower and the higher source row.
  struct RowSums {
    Buffer<T> low, high;
    Buffer<T> inner;  // per column the sum over the classes of probs * grad
  };
  static constexpr int64_t kColumns = 128;  // at once, so that their sums stay in the cache

  void backward_cell(const S* grad, const S* probs, int64_t image, const CellRow& cell,
                     const Planes<T>& sums) const {
    const int64_t channels = layout_.channels;
    RowSums row_sums;
    row_sums.low.reset(channels * kColumns);
    row_sums.high.reset(channels * kColumns);
    row_sums.inner.reset(kColumns);
    for (int64_t begin = 0; begin < g_.width; begin += kColumns) {
      const int64_t columns = std::min(kColumns, g_.width - begin);
      std::fill(row_sums.low.data(), row_sums.low.data() + channels * kColumns, T{});
      std::fill(row_sums.high.data(), row_sums.high.data() + channels * kColumns, T{});
      for (int64_t y = cell.begin; y < cell.end; ++y) {
        add_row(grad, probs, image, y, begin, columns, row_sums);
      }
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t x = 0; x < columns; x += 8) {
          const Block<T>& block = blocks_[(begin + x) / 8];
          const int64_t at = c * kColumns + x;
          spread_row(load<V>(&row_sums.low[at]), block, sums.row(image, c, cell.low));
          spread_row(load<V>(&row_sums.high[at]), block, sums.row(image, c, cell.high));
        }
      }
    }
  }

  void add_row(const S* grad, const S* probs, int64_t image, int64_t y, int64_t begin,
               int64_t columns, RowSums& row_sums) const {
    const int64_t channels = layout_.channels;
    const T high_weight = static_cast<T>(rows_.high_weight[y]);
    const T low_weight = static_cast<T>(1.0 - rows_.high_weight[y]);
    // From one class, and from one column, to the next.
    const int64_t class_step = layout_.channels_last ? 1 : g_.height * g_.width;
    const int64_t column_step = layout_.channels_last ? channels : 1;
    const int64_t first = layout_.channels_last
                              ? ((image * g_.height + y) * g_.width + begin) * channels
                              : (image * channels * g_.height + y) * g_.width + begin;
    T* inner = row_sums.inner.data();
    std::fill(inner, inner + columns, T{});
    for (int64_t c = 0; c < channels; ++c) {
      const S* g = grad + first + c * class_step;
      const S* p = probs + first + c * class_step;
      for_columns(columns, column_step,
                  [&](int64_t x, int64_t at) { inner[x] += widen(g[at]) * widen(p[at]); });
    }
    for (int64_t c = 0; c < channels; ++c) {
      const S* g = grad + first + c * class_step;
      const S* p = probs + first + c * class_step;
      T* low = &row_sums.low[c * kColumns];
      T* high = &row_sums.high[c * kColumns];
      for_columns(columns, column_step, [&](int64_t x, int64_t at) {
        const T value = widen(p[at]) * (widen(g[at]) - inner[x]);
        low[x] += low_weight * value;
        high[x] += high_weight * value;
      });
    }
  }

  // use(x, x * step), where a step of one is worth a loop of its own.
  template <typename Use>
  static void for_columns(int64_t columns, int64_t step, Use&& use) {
    if (step == 1) {
      for (int64_t x = 0; x < columns; ++x) use(x, x);
    } else {
      for (int64_t x = 0; x < columns; ++x) use(x, x * step);
    }
  }

  const ScoreLayout layout_;
  const UpsampleGeometry g_;
  const RowTable rows_;
  const std::vector<Block<T>> blocks_;
  const int64_t cells_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
