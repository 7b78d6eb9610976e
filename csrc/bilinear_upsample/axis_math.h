#pragma once

#include <cstdint>

#include "../common/host_device.h"

// The arithmetic of sample positions along one axis, in double precision for every dtype: single
// precision would misplace the pixels of a large image by more than the labels allow.
namespace fastseg {

// The two source samples that feed one output pixel.
struct Taps {
  int64_t low, high;   // equal at the last sample
  double high_weight;  // `low` takes 1 - high_weight
};

// Distance of neighbouring pixels in source samples.
FASTSEG_HOST_DEVICE inline double sample_step(int64_t source, int64_t size, bool align_corners,
                                              double scale) {
  if (align_corners) return size > 1 ? double(source - 1) / double(size - 1) : 0.0;
  return scale > 0 ? 1.0 / scale : double(source) / double(size);
}

// With align_corners pixel i lies at i step. Else pixels and samples are cells, of which the
// centres are compared: (i + 1/2) step - 1/2, but not below zero.
FASTSEG_HOST_DEVICE inline Taps sample_taps(int64_t i, int64_t source, int64_t size,
                                            bool align_corners, double step) {
  if (source == size) return {i, i, 0.0};
  double place = align_corners ? step * double(i) : step * (double(i) + 0.5) - 0.5;
  if (place < 0.0) place = 0.0;
  const int64_t low = place < double(source - 1) ? static_cast<int64_t>(place) : source - 1;
  double high_weight = place - double(low);
  if (high_weight > 1.0) high_weight = 1.0;
  return {low, low + (low < source - 1 ? 1 : 0), high_weight};
}

}  // namespace fastseg
