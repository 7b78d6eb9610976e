#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../common/simd.h"

namespace fastseg {
namespace FASTSEG_ISA {

// The order in which the pixels of an image are visited, a function of its size alone.
//
// An image is cut into chunks, one task each, with private lattice rows; a chunk into strips of
// up to 16 lines; and a strip is walked in blocks of eight neighbouring pixels of a line, down
// the lines of the strip first: the working set of a strip's column stays in the first cache.
class PointOrder {
 public:
  explicit PointOrder(const std::vector<int64_t>& spatial) {
    points_ = 1;
    for (int64_t size : spatial) points_ *= size;
    width_ = spatial.back();
    if (spatial.size() == 1 || (width_ < 8 * kLanes && width_ % kLanes != 0)) {
      width_ = kLanes;  // no lines worth keeping: eight points at a time, none wasted
      add_plane(0, (points_ + kLanes - 1) / kLanes, 1, 1);
    } else {
      const int64_t height = spatial[spatial.size() - 2];
      const int64_t depth = points_ / (width_ * height);
      add_plane(0, height, depth, depth > 1 ? 4 : 1);
      keeps_lines_ = depth == 1;
    }
    blocks_per_line_ = (width_ + kLanes - 1) / kLanes;
    cut_chunks();
  }

  int64_t points() const { return points_; }
  int64_t blocks() const { return static_cast<int64_t>(lines_.size()) * blocks_per_line_; }
  int64_t chunks() const { return static_cast<int64_t>(chunk_strips_.size()) - 1; }

  // Whether it is a picture, and its lines are the order's.
  bool keeps_lines() const { return keeps_lines_; }
  int64_t width() const { return width_; }

  // First line of the chunk, and at chunks() the end.
  int64_t chunk_line(int64_t chunk) const { return strips_[chunk_strips_[chunk]]; }

  // First block of the chunk, and at chunks() the end; points of its blocks, with those that only
  // fill them up.
  int64_t chunk_block(int64_t chunk) const { return chunk_line(chunk) * blocks_per_line_; }
  int64_t chunk_points(int64_t chunk) const {
    return (chunk_block(chunk + 1) - chunk_block(chunk)) * kLanes;
  }

  struct Block {
    int64_t index;   // position in the order of visits
    int64_t point;   // first pixel, in the order of the image
    int64_t line;    // of the image, in the order of visits
    int64_t column;  // eighth part of the first pixel's place in the line
    int count;       // 1 to 8 pixels
  };

  // visit(Block) for each block of the chunk, in order.
  template <typename Visit>
  void for_each_block(int64_t chunk, Visit&& visit) const {
    for (int64_t s = chunk_strips_[chunk]; s < chunk_strips_[chunk + 1]; ++s) {
      const int64_t first = strips_[s], last = strips_[s + 1];
      int64_t index = first * blocks_per_line_;
      for (int64_t b = 0; b < blocks_per_line_; ++b) {
        for (int64_t line = first; line < last; ++line) {
          const int64_t point = lines_[line] + b * kLanes;
          const int64_t left = std::min(width_ - b * kLanes, points_ - point);
          visit(Block{index++, point, line, b, static_cast<int>(std::min<int64_t>(kLanes, left))});
        }
      }
    }
  }

 private:
  static constexpr int64_t kStripLines = 16;
  static constexpr int64_t kChunkPoints = 40000;
  static constexpr int64_t kMaxChunks = 64;

  // Strips of kStripLines lines: rows of one slice, or a square of rows and slices of a volume.
  void add_plane(int64_t begin, int64_t height, int64_t depth, int64_t strip_depth) {
    const int64_t strip_height = kStripLines / strip_depth;
    strips_.push_back(0);
    for (int64_t z0 = 0; z0 < depth; z0 += strip_depth) {
      for (int64_t y0 = 0; y0 < height; y0 += strip_height) {
        for (int64_t z = z0; z < std::min(depth, z0 + strip_depth); ++z) {
          for (int64_t y = y0; y < std::min(height, y0 + strip_height); ++y) {
            lines_.push_back(begin + (z * height + y) * width_);
          }
        }
        strips_.push_back(static_cast<int64_t>(lines_.size()));
      }
    }
  }

  // Chunks of about equal numbers of lines, whole strips each; a power of two of them.
  void cut_chunks() {
    const int64_t strips = static_cast<int64_t>(strips_.size()) - 1;
    int64_t chunks = 1;
    while (chunks < kMaxChunks && 2 * chunks * kChunkPoints <= points_ && 2 * chunks <= strips) {
      chunks *= 2;
    }
    for (int64_t c = 0; c <= chunks; ++c) chunk_strips_.push_back(strips * c / chunks);
  }

  int64_t points_;
  int64_t width_;
  int64_t blocks_per_line_;
  bool keeps_lines_ = false;
  std::vector<int64_t> lines_;         // first pixel of each line, in the order of visits
  std::vector<int64_t> strips_;        // first line of each strip, and the end
  std::vector<int64_t> chunk_strips_;  // first strip of each chunk, and the end
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
