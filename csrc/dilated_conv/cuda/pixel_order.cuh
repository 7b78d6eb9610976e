#pragma once

#include <cstdint>

#include "conv_task.cuh"

// The order in which output pixels are dealt to tiles: by images, in these by strips of columns, in
// a strip by rows. A tile of 128 pixels is so a patch of some ten rows and columns, and taps that
// lie in the padding for all of it are many; no tile but the last is cut.
namespace fastseg {
namespace cuda {

struct PixelOrder {
  int height, width, strip_width;  // of the output

  __host__ __device__ int pixels() const { return height * width; }

  __device__ int strip(int index) const { return index / (strip_width * height); }
  __device__ Place at(int64_t image, int index) const {
    const int first = strip(index) * strip_width;
    const int across = first + strip_width < width ? strip_width : width - first;
    const int inside = index - first * height, y = inside / across;
    return {image, y, first + inside - y * across};
  }
};

inline PixelOrder pixel_order(int64_t height, int64_t width) {
  constexpr int64_t kStrip = 16;
  const int64_t strips = (width + kStrip - 1) / kStrip;
  return {static_cast<int>(height), static_cast<int>(width),
          static_cast<int>((width + strips - 1) / strips)};
}

// A run of pixels in that order, from the first of a tile.
struct PixelRun {
  int64_t image;
  int index;

  __device__ PixelRun(const PixelOrder& order, int64_t first)
      : image(first / order.pixels()), index(static_cast<int>(first % order.pixels())) {}

  __device__ Place at(const PixelOrder& order, int i) const {
    const unsigned inside = static_cast<unsigned>(index) + i;
    const unsigned images = inside / static_cast<unsigned>(order.pixels());
    return order.at(image + images, static_cast<int>(inside - images * order.pixels()));
  }
};

// The least patch that holds so many pixels of a run; ends are inclusive.
struct Patch {
  int top, bottom, left, right;

  __device__ Patch(const PixelOrder& order, const PixelRun& run, int count)
      : top(0), bottom(order.height - 1), left(0), right(order.width - 1) {
    const int last = run.index + count - 1;
    if (last >= order.pixels()) return;  // of two images
    const int first_strip = order.strip(run.index), last_strip = order.strip(last);
    left = first_strip * order.strip_width;
    const int end = (last_strip + 1) * order.strip_width;
    right = (end < order.width ? end : order.width) - 1;
    if (first_strip != last_strip) return;
    top = static_cast<int>(order.at(0, run.index).y);
    bottom = static_cast<int>(order.at(0, last).y);
  }
};

}  // namespace cuda
}  // namespace fastseg
