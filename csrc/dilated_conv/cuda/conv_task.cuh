#pragma once

#include <cstdint>

#include "../../common/storage.cuh"
#include "../../common/vector_access.cuh"
#include "../dilated_conv.h"

// What the kernels know of a convolution.
namespace fastseg {
namespace cuda {

constexpr int kArgumentBranches = 16;  // that fit a kernel's arguments; more are in memory

template <typename S>
struct Branch {
  const S* weight;
  int64_t output_stride, channel_stride, row_stride, column_stride;  // of the weight
  const S* bias;
  int64_t kernel_height, kernel_width, rate_y, rate_x, top, left;
  int64_t outputs;       // of a group
  int64_t first_output;  // among all outputs, where branches are concatenated
  int first_tile;        // and among their tiles
};

template <typename S>
struct Branches {
  Branch<S> own[kArgumentBranches];
  const Branch<S>* table;  // of all in place of these, or null
  int count;
  bool concat;

  __device__ const Branch<S>& operator[](int i) const { return table ? table[i] : own[i]; }

  // Of concatenated branches the one that makes this output.
  __device__ int of_output(int64_t output) const {
    int i = count - 1;
    while (i > 0 && (*this)[i].first_output > output) --i;
    return i;
  }
};

// Where an output pixel is.
struct Place {
  int64_t image;
  int64_t y, x;
};

// Bias, residual and activation on the way to the output.
template <typename S>
struct Finish {
  Image<S> output;
  Image<const S> residual;
  Activation activation;

  // first <= end: the branches whose sum `value` is. `output` counts from theirs, or all, outputs.
  template <typename T>
  __device__ T value(const Branches<S>& branches, int first, int end, int64_t output,
                     T value) const {
    for (int i = first; i < end; ++i) {
      const Branch<S>& branch = branches[i];
      if (branch.bias) value += widen(branch.bias[output - branch.first_output]);
    }
    return value;
  }
  template <typename T>
  __device__ T activated(T value) const {
    if (activation == Activation::kNone) return value;
    if (value < 0) return T(0);  // NaN stays
    return activation == Activation::kRelu6 && value > 6 ? T(6) : value;
  }
  template <typename I>
  __device__ static int64_t offset(const I& image, const Place& at, int64_t channel) {
    return at.image * image.batch + channel * image.channel + at.y * image.row +
           at.x * image.column;
  }
  template <typename T>
  __device__ void write(const Place& at, int64_t channel, T value) const {
    if (residual.data) value += widen(residual.data[offset(residual, at, channel)]);
    narrow(activated(value), output.data[offset(output, at, channel)]);
  }
};

}  // namespace cuda
}  // namespace fastseg
