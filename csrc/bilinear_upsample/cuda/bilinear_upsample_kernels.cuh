#pragma once

#include <cstdint>

#include "../../common/vector_access.cuh"
#include "pixel_packs.cuh"
#include "pixel_taps.cuh"

// Bilinear upsampling by itself.
namespace fastseg {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kPlanesOfThread = 8;  // their pixels share the taps

// One thread owns kPixels neighbouring pixels of kPlanesOfThread planes; neighbouring threads write
// neighbouring packs. Grid: tiles of a plane, times chunks of planes.
template <typename S, int kPixels>
__global__ void __launch_bounds__(kThreads)
    upsample_planes(const S* __restrict__ input, AxisTables<Arithmetic<S>> tables, int64_t planes,
                    UpsampleGeometry g, unsigned tiles, int64_t first_chunk,
                    S* __restrict__ output) {
  using T = Arithmetic<S>;
  const int64_t pixels = g.height * g.width, samples = g.source_height * g.source_width;
  const int64_t pixel = (int64_t{blockIdx.x % tiles} * kThreads + threadIdx.x) * kPixels;
  if (pixel >= pixels) return;
  const int32_t y = static_cast<int32_t>(pixel / g.width);
  const int32_t x = static_cast<int32_t>(pixel - y * g.width);
  const PixelTaps<T, kPixels> taps(tables, y, x, g.source_width);
  const int64_t first = (first_chunk + blockIdx.x / tiles) * kPlanesOfThread;
  const int64_t last = first + kPlanesOfThread < planes ? first + kPlanesOfThread : planes;
  for (int64_t plane = first; plane < last; ++plane) {
    Pack<S, kPixels> values;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) narrow(taps.value(input + plane * samples, i), values[i]);
    store_pack(values, output + plane * pixels + pixel);
  }
}

// channels_last: one thread owns kChannels neighbouring channels of a pixel; neighbouring threads
// read and write neighbouring packs.
template <typename S, int kChannels>
__global__ void __launch_bounds__(kThreads)
    upsample_pixels(const S* __restrict__ input, AxisTables<Arithmetic<S>> tables, int64_t batch,
                    int64_t channels, UpsampleGeometry g, int64_t first_block,
                    S* __restrict__ output) {
  using T = Arithmetic<S>;
  const int64_t packs = channels / kChannels;
  const int64_t at = thread_of(first_block);
  const int64_t pixel = at / packs;  // of the batch
  if (pixel >= batch * g.height * g.width) return;
  const int64_t channel = (at - pixel * packs) * kChannels, row = pixel / g.width;
  const int64_t image = row / g.height;
  const Tap<T> down = tables.rows[row - image * g.height];
  const Tap<T> across = tables.columns[pixel - row * g.width];
  const S* plane = input + image * g.source_height * g.source_width * channels + channel;
  const auto sample = [&](int32_t y, int32_t x) {
    return load_pack<kChannels>(plane + (y * g.source_width + x) * channels);
  };
  const auto top_left = sample(down.low, across.low), top_right = sample(down.low, across.high);
  const auto low_left = sample(down.high, across.low), low_right = sample(down.high, across.high);
  Pack<S, kChannels> values;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const T top = across.low_weight * widen(top_left[i]) + across.high_weight * widen(top_right[i]);
    const T low = across.low_weight * widen(low_left[i]) + across.high_weight * widen(low_right[i]);
    narrow(down.low_weight * top + down.high_weight * low, values[i]);
  }
  store_pack(values, output + pixel * channels + channel);
}

// The gradient of the upsampled scores, as it is stored.
template <typename S>
struct PlainGradient {
  const S* grad;
  S* grad_input;
  int64_t source_height, source_width, height, width, inner_size;

  __device__ const S* source(int64_t outer, int64_t inner) const {
    return grad + outer * height * width * inner_size + inner;
  }
  // Packs are of planes.
  template <int kPack>
  __device__ void at(const S* source, int32_t y, int32_t x, Arithmetic<S> (&values)[kPack]) const {
    const Pack<S, kPack> pack = load_pack<kPack>(source + (y * width + x) * inner_size);
#pragma unroll
    for (int i = 0; i < kPack; ++i) values[i] = widen(pack[i]);
  }
  __device__ void write(Arithmetic<S> sum, int64_t outer, int64_t inner, int32_t row,
                        int32_t column) const {
    const int64_t sample = (outer * source_height + row) * source_width + column;
    narrow(sum, grad_input[sample * inner_size + inner]);
  }
};

}  // namespace cuda
}  // namespace fastseg
