#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../../common/buffer.h"
#include "../../common/parallel.h"
#include "../bilinear_upsample.h"
#include "score_types.h"

// Score arrays as planes in the type of the arithmetic, whatever they were stored in.
namespace fastseg {
namespace FASTSEG_ISA {

constexpr int64_t kLeastPitch = 8;  // a window of eight samples fits into the narrowest plane

// (B, C, rows, columns) with a pitch between rows.
template <typename T>
struct Planes {
  T* data = nullptr;
  int64_t channels = 0, rows = 0, pitch = 0;
  T* row(int64_t image, int64_t channel, int64_t y) const {
    return data + ((image * channels + channel) * rows + y) * pitch;
  }
  int64_t plane() const { return rows * pitch; }  // from one channel to the next
};

template <typename S>
inline bool is_planes(const ScoreLayout& layout, int64_t columns) {
  return std::is_same_v<S, Arithmetic<S>> && columns >= kLeastPitch && !layout.channels_last;
}

// Scores to read: the array itself where it is planes already, else a copy, small beside what is
// made of it.
template <typename S>
class SourcePlanes {
 public:
  using T = Arithmetic<S>;
  SourcePlanes(const void* scores, const ScoreLayout& layout, int64_t rows, int64_t columns,
               Parallel parallel) {
    const S* from = static_cast<const S*>(scores);
    const int64_t channels = layout.channels;
    planes_ = {nullptr, channels, rows, std::max(columns, kLeastPitch)};
    if constexpr (std::is_same_v<S, T>) {
      if (is_planes<S>(layout, columns)) {
        planes_.data = from;
        return;
      }
    }
    copy_.reset(layout.batch * channels * rows * planes_.pitch);
    const Planes<T> copy = {copy_.data(), channels, rows, planes_.pitch};
    planes_.data = copy_.data();
    parallel(layout.batch * rows, [&](int64_t task) {
      const int64_t image = task / rows, y = task % rows;
      for (int64_t c = 0; c < channels; ++c) {
        T* row = copy.row(image, c, y);
        if (layout.channels_last) {
          const S* pixel = from + task * columns * channels + c;
          for (int64_t x = 0; x < columns; ++x) row[x] = widen(pixel[x * channels]);
        } else {
          widen_row(from + ((image * channels + c) * rows + y) * columns, columns, row);
        }
        for (int64_t x = columns; x < copy.pitch; ++x) row[x] = T{};
      }
    });
  }
  const Planes<const T>& planes() const { return planes_; }

 private:
  Buffer<T> copy_;
  Planes<const T> planes_;
};

// Planes of sums, which begin at zero, and end in an array of another type or layout.
template <typename S>
class SumPlanes {
 public:
  using T = Arithmetic<S>;
  SumPlanes(void* result, const ScoreLayout& layout, int64_t rows, int64_t columns,
            Parallel parallel)
      : result_(static_cast<S*>(result)), layout_(layout), columns_(columns) {
    sums_ = {nullptr, layout.channels, rows, std::max(columns, kLeastPitch)};
    if constexpr (std::is_same_v<S, T>) {
      if (is_planes<S>(layout, columns)) sums_.data = result_;
    }
    if (sums_.data == nullptr) {
      copy_.reset(layout.batch * layout.channels * sums_.plane());
      sums_.data = copy_.data();
    }
    parallel(layout.batch * layout.channels, [&](int64_t plane) {
      T* begin = sums_.data + plane * sums_.plane();
      std::fill(begin, begin + sums_.plane(), T{});
    });
  }
  const Planes<T>& planes() const { return sums_; }

  // Writes factor * sums.
  void finish(double factor, Parallel parallel) {
    const T by = static_cast<T>(factor);
    const int64_t channels = layout_.channels, rows = sums_.rows;
    const bool in_place = copy_.size() == 0;
    if (in_place && by == T{1}) return;
    parallel(layout_.batch * rows, [&](int64_t task) {
      const int64_t image = task / rows, y = task % rows;
      for (int64_t c = 0; c < channels; ++c) {
        const T* sums = sums_.row(image, c, y);
        const bool strided = layout_.channels_last;
        S* to = strided ? result_ + task * columns_ * channels + c
                        : result_ + ((image * channels + c) * rows + y) * columns_;
        const int64_t stride = strided ? channels : 1;
        for (int64_t x = 0; x < columns_; ++x) narrow(by * sums[x], to[x * stride]);
      }
    });
  }

 private:
  S* result_;
  ScoreLayout layout_;
  int64_t columns_;
  Buffer<T> copy_;
  Planes<T> sums_;
};

// Runs task(image, cell) for all cells of all images such that cells that share a source row,
// one and the next, never run at the same time: each adds to the rows cell.low and cell.high.
template <typename Task>
void for_cells_that_add(int64_t batch, int64_t cells, Parallel parallel, Task&& task) {
  for (int64_t parity = 0; parity < 2; ++parity) {
    const int64_t count = (cells + 1 - parity) / 2;
    if (count == 0) continue;
    parallel(batch * count, [&](int64_t i) { task(i / count, 2 * (i % count) + parity); });
  }
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
