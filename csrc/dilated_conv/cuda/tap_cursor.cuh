#pragma once

#include <cstdint>

#include "pixel_order.cuh"

// The depth of a tile's product: the taps of its branches that see the input from some pixel of
// the tile, and of each tap the channels, in vectors of 16 bytes.
namespace fastseg {
namespace cuda {

// Where the input is read.
struct Source {
  int height, width, stride_y, stride_x;
  int vectors;                        // of 16 bytes in the channels of a group
  int64_t batch_stride, row, column;  // in elements
  int64_t group_stride;               // from a group's channels to the next one's
};

// Those of a branch's taps that see the input: rows and columns, ends exclusive.
struct TapWindow {
  int top, bottom, left, right;

  template <typename S>
  __device__ TapWindow(const Branch<S>& branch, const Source& source, const Patch& patch) {
    const auto seen = [](int low, int high, int size, int before, int rate, int taps, int* begin,
                         int* end) {  // low and high: the patch's first and last, in the input
      *begin = before > high ? (before - high + rate - 1) / rate : 0;
      const int beyond = size + before - low;  // of the first tap that lies past the input
      const int last = beyond > 0 ? (beyond + rate - 1) / rate : 0;
      *end = last < taps ? last : taps;
      if (*end < *begin) *end = *begin;
    };
    seen(patch.top * source.stride_y, patch.bottom * source.stride_y, source.height,
         static_cast<int>(branch.top), static_cast<int>(branch.rate_y),
         static_cast<int>(branch.kernel_height), &top, &bottom);
    seen(patch.left * source.stride_x, patch.right * source.stride_x, source.width,
         static_cast<int>(branch.left), static_cast<int>(branch.rate_x),
         static_cast<int>(branch.kernel_width), &left, &right);
  }

  __device__ int64_t taps() const { return int64_t{bottom - top} * (right - left); }
};

// The vector that a thread loads next.
template <typename S>
class TapCursor {
 public:
  __device__ TapCursor(const Branches<S>& branches, const Source& source, const Patch& patch,
                       int first, int end)
      : branches_(branches), source_(source), patch_(patch), branch_(first), end_(end) {}

  // Vectors in all.
  __device__ int64_t size() const {
    int64_t taps = 0;
    for (int i = branch_; i < end_; ++i) taps += TapWindow(branches_[i], source_, patch_).taps();
    return taps * source_.vectors;
  }

  __device__ void seek(int64_t position) {
    int64_t tap = position / source_.vectors;
    vector_ = static_cast<int>(position - tap * source_.vectors);
    for (; branch_ < end_; ++branch_) {
      const TapWindow window(branches_[branch_], source_, patch_);
      if (tap < window.taps()) {
        enter(window);
        const int across = right_ - left_;
        row_ = window.top + static_cast<int>(tap / across);
        column_ = left_ + static_cast<int>(tap % across);
        return arrive();
      }
      tap -= window.taps();
    }
  }

  __device__ void advance(int count) {
    vector_ += count;
    while (valid() && vector_ >= source_.vectors) {
      vector_ -= source_.vectors;
      next_tap();
    }
  }

  __device__ bool valid() const { return branch_ < end_; }
  // From an output pixel's first input pixel to that which the tap sees.
  __device__ int down() const { return down_; }
  __device__ int across() const { return across_; }
  __device__ int64_t input_offset() const { return input_ + vector_ * kNumbers; }
  __device__ const S* weight(int64_t output) const {
    return weight_ + output * output_stride_ + vector_ * kNumbers;
  }

  static constexpr int kNumbers = 16 / sizeof(S);

 private:
  __device__ void next_tap() {
    if (++column_ == right_) {
      column_ = left_;
      if (++row_ == bottom_) {
        do {
          if (++branch_ == end_) return;
          const TapWindow window(branches_[branch_], source_, patch_);
          if (window.taps() == 0) continue;
          enter(window);
          row_ = window.top;
          column_ = left_;
          break;
        } while (true);
      }
    }
    arrive();
  }

  __device__ void enter(const TapWindow& window) {
    bottom_ = window.bottom;
    left_ = window.left;
    right_ = window.right;
    output_stride_ = branches_[branch_].output_stride;
  }

  __device__ void arrive() {
    const Branch<S>& branch = branches_[branch_];
    down_ = row_ * static_cast<int>(branch.rate_y) - static_cast<int>(branch.top);
    across_ = column_ * static_cast<int>(branch.rate_x) - static_cast<int>(branch.left);
    input_ = down_ * source_.row + across_ * source_.column;
    weight_ = branch.weight + row_ * branch.row_stride + column_ * branch.column_stride;
  }

  const Branches<S>& branches_;
  const Source& source_;
  Patch patch_;
  int branch_, end_, vector_ = 0;
  int row_ = 0, column_ = 0, bottom_ = 0, left_ = 0, right_ = 0;
  int down_ = 0, across_ = 0;
  int64_t input_ = 0, output_stride_ = 0;
  const S* weight_ = nullptr;
};

}  // namespace cuda
}  // namespace fastseg
