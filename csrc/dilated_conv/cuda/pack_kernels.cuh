#pragma once

#include <cstdint>

#include "conv_task.cuh"

// Input and weights in the form that tiles are copied from: channels side by side, of each group
// filled up with zeros to whole vectors of 16 bytes.
namespace fastseg {
namespace cuda {

constexpr int kPackThreads = 256;
constexpr int kPackPixels = 32, kPackChannels = 64;  // of a block

// A block owns kPackPixels pixels of kPackChannels channels: (B, C, H, W) of any strides to
// (B, H, W, groups * padded). Neighbouring threads read neighbouring columns, or channels where
// these lie side by side, and write neighbouring channels.
template <typename S>
__global__ void __launch_bounds__(kPackThreads)
    pack_input(Image<const S> image, int64_t width, int64_t pixels_of_image, int64_t group_inputs,
               int64_t padded, int64_t channels, int64_t pixels, unsigned channel_tiles,
               S* __restrict__ packed) {
  FASTSEG_SHARED(S, tile, [kPackPixels][kPackChannels + 2]);
  const int64_t first_pixel = int64_t{blockIdx.x / channel_tiles} * kPackPixels;
  const int64_t first_channel = int64_t{blockIdx.x % channel_tiles} * kPackChannels;
  const bool by_channels = image.channel == 1;
  for (int i = threadIdx.x; i < kPackPixels * kPackChannels; i += kPackThreads) {
    const int p = by_channels ? i / kPackChannels : i % kPackPixels;
    const int c = by_channels ? i % kPackChannels : i / kPackPixels;
    const int64_t pixel = first_pixel + p, channel = first_channel + c;
    S value;
    narrow(0.0f, value);
    if (pixel < pixels && channel < channels) {
      const int64_t group = channel / padded, own = channel - group * padded;
      const int64_t b = pixel / pixels_of_image, inside = pixel - b * pixels_of_image;
      const int64_t y = inside / width, x = inside - y * width;
      if (own < group_inputs) {
        value = image.data[b * image.batch + (group * group_inputs + own) * image.channel +
                           y * image.row + x * image.column];
      }
    }
    tile[p][c] = value;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kPackPixels * kPackChannels / 2; i += kPackThreads) {
    const int p = i / (kPackChannels / 2), c = i % (kPackChannels / 2) * 2;
    const int64_t pixel = first_pixel + p, channel = first_channel + c;
    if (pixel >= pixels || channel >= channels) continue;
    const Pack<S, 2> pair = {{tile[p][c], tile[p][c + 1]}};
    store_pack(pair, packed + pixel * channels + channel);
  }
}

// One thread owns the taps of one output and channel; neighbouring threads write neighbouring
// channels: (O, C, KH, KW) of any strides to (KH, KW, O, padded).
template <typename S>
__global__ void __launch_bounds__(kPackThreads)
    pack_weight(Branch<S> branch, int64_t outputs, int64_t channels, int64_t padded,
                S* __restrict__ packed) {
  const int64_t at = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  if (at >= outputs * padded) return;
  const int64_t output = at / padded, channel = at - output * padded;
  const S* source = branch.weight + output * branch.output_stride + channel * branch.channel_stride;
  for (int64_t i = 0; i < branch.kernel_height; ++i) {
    for (int64_t j = 0; j < branch.kernel_width; ++j) {
      S value;
      narrow(0.0f, value);
      if (channel < channels) value = source[i * branch.row_stride + j * branch.column_stride];
      packed[(i * branch.kernel_width + j) * outputs * padded + at] = value;
    }
  }
}

// Branches that a kernel's arguments hold, to their place in the table.
template <typename S>
__global__ void __launch_bounds__(kArgumentBranches)
    store_branches(const __grid_constant__ Branches<S> some, int first,
                   Branch<S>* __restrict__ table) {
  if (static_cast<int>(threadIdx.x) < some.count) {
    table[first + threadIdx.x] = some.own[threadIdx.x];
  }
}

}  // namespace cuda
}  // namespace fastseg
