#pragma once

#include <cstdint>

#include "../../common/online_softmax.cuh"
#include "../../common/vector_access.cuh"
#include "pixel_packs.cuh"
#include "pixel_taps.cuh"

// The softmax of upsampled logits, and what its gradient needs of each pixel.
namespace fastseg {
namespace cuda {

constexpr int kSoftmaxThreads = 256;
constexpr unsigned kWholeWarp = 0xffffffffu;

// Planes: one thread owns kPixels neighbouring pixels and goes through the classes twice, which is
// less than to keep their logits; neighbouring threads write neighbouring packs.
template <typename S, int kPixels>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_of_planes(const S* __restrict__ logits, AxisTables<Arithmetic<S>> tables, int64_t batch,
                      int64_t channels, UpsampleGeometry g, int64_t first_block,
                      S* __restrict__ probs) {
  using T = Arithmetic<S>;
  const int64_t pixels = g.height * g.width, samples = g.source_height * g.source_width;
  const auto [image, y, x] = pack_place<kPixels>(thread_of(first_block), g);
  if (image >= batch) return;
  const PixelTaps<T, kPixels> taps(tables, y, x, g.source_width);
  const S* plane = logits + image * channels * samples;
  OnlineSoftmax<T> softmax[kPixels];
  for (int64_t c = 0; c < channels; ++c) {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) softmax[i].add(taps.value(plane + c * samples, i));
  }
  T inverse[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    softmax[i].finish();
    inverse[i] = 1 / softmax[i].sum;
  }
  S* to = probs + image * channels * pixels + y * g.width + x;
  for (int64_t c = 0; c < channels; ++c, to += pixels) {
    Pack<S, kPixels> values;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const T power = exp_of(taps.value(plane + c * samples, i) - softmax[i].largest);
      narrow(power * inverse[i], values[i]);
    }
    store_pack(values, to);
  }
}

// channels_last: one warp owns a pixel, its lanes the classes in turn; a warp writes what lies side
// by side.
template <typename S>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_of_pixels(const S* __restrict__ logits, AxisTables<Arithmetic<S>> tables, int64_t batch,
                      int64_t channels, UpsampleGeometry g, int64_t first_block,
                      S* __restrict__ probs) {
  using T = Arithmetic<S>;
  const int lane = threadIdx.x % 32;
  const int64_t pixel = thread_of(first_block) / 32;
  if (pixel >= batch * g.height * g.width) return;  // whole warps
  const int64_t row = pixel / g.width, image = row / g.height;
  const PixelTaps<T, 1> taps(tables, static_cast<int32_t>(row - image * g.height),
                             static_cast<int32_t>(pixel - row * g.width),
                             g.source_width * channels);
  // From the beginning of a row of samples, of which each has C classes.
  const int64_t left = taps.left[0] * channels, right = taps.right[0] * channels;
  const S* plane = logits + image * g.source_height * g.source_width * channels;
  const S *upper = plane + taps.top, *lower = plane + taps.bottom;
  const auto logit = [&](int64_t c) {
    return taps.top_weight * (taps.left_weight[0] * widen(upper[left + c]) +
                              taps.right_weight[0] * widen(upper[right + c])) +
           taps.bottom_weight * (taps.left_weight[0] * widen(lower[left + c]) +
                                 taps.right_weight[0] * widen(lower[right + c]));
  };
  OnlineSoftmax<T> softmax;
  for (int64_t c = lane; c < channels; c += 32) softmax.add(logit(c));
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const T largest = __shfl_xor_sync(kWholeWarp, softmax.largest, lanes);
    const T sum = __shfl_xor_sync(kWholeWarp, softmax.sum, lanes);
    softmax.merge(largest, sum);
  }
  softmax.finish();
  const T inverse = 1 / softmax.sum;
  S* to = probs + pixel * channels;
  for (int64_t c = lane; c < channels; c += 32) {
    narrow(exp_of(logit(c) - softmax.largest) * inverse, to[c]);
  }
}

// Sums over the classes of probs * grad, (B, H, W), of planes: one thread owns kPixels neighbouring
// pixels.
template <typename S, int kPixels>
__global__ void __launch_bounds__(kSoftmaxThreads)
    inner_products_of_planes(const S* __restrict__ grad, const S* __restrict__ probs, int64_t batch,
                             int64_t channels, int64_t pixels, int64_t first_block,
                             Arithmetic<S>* __restrict__ sums) {
  const int64_t number = thread_of(first_block) * kPixels, image = number / pixels;
  if (image >= batch) return;
  const int64_t pixel = number - image * pixels;
  Pack<Arithmetic<S>, kPixels> sum = {};
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t at = (image * channels + c) * pixels + pixel;
    const auto weights = load_pack<kPixels>(probs + at), upstream = load_pack<kPixels>(grad + at);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) sum[i] += widen(weights[i]) * widen(upstream[i]);
  }
  store_pack(sum, sums + number);
}

// The same of channels_last: one warp a pixel.
template <typename S>
__global__ void __launch_bounds__(kSoftmaxThreads)
    inner_products_of_pixels(const S* __restrict__ grad, const S* __restrict__ probs,
                             int64_t channels, int64_t pixels, int64_t first_block,
                             Arithmetic<S>* __restrict__ sums) {
  const int lane = threadIdx.x % 32;
  const int64_t pixel = thread_of(first_block) / 32;
  if (pixel >= pixels) return;  // whole warps
  Arithmetic<S> sum = 0;
  for (int64_t c = lane; c < channels; c += 32) {
    sum += widen(probs[pixel * channels + c]) * widen(grad[pixel * channels + c]);
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, lanes);
  if (lane == 0) sums[pixel] = sum;
}

// probs (grad - their inner product), the gradient of the upsampled logits.
template <typename S>
struct SoftmaxGradient {
  const S *grad, *probs;
  const Arithmetic<S>* inner_products;  // (B, H, W)
  S* grad_logits;
  int64_t channels, source_height, source_width, height, width;
  bool channels_last;

  struct Source {
    const S *grad, *probs;
    const Arithmetic<S>* inner_products;
    int64_t stride;
  };
  __device__ Source source(int64_t outer, int64_t inner) const {
    const int64_t image = channels_last ? outer : outer / channels, pixels = height * width;
    const int64_t stride = channels_last ? channels : 1, first = outer * pixels * stride + inner;
    return {grad + first, probs + first, inner_products + image * pixels, stride};
  }
  // Packs are of planes.
  template <int kPack>
  __device__ void at(const Source& source, int32_t y, int32_t x,
                     Arithmetic<S> (&values)[kPack]) const {
    const int64_t pixel = y * width + x, place = pixel * source.stride;
    const Pack<S, kPack> probs = load_pack<kPack>(source.probs + place);
    const Pack<S, kPack> grad = load_pack<kPack>(source.grad + place);
    const auto products = load_pack<kPack>(source.inner_products + pixel);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values[i] = widen(probs[i]) * (widen(grad[i]) - products[i]);
    }
  }
  __device__ void write(Arithmetic<S> sum, int64_t outer, int64_t inner, int32_t row,
                        int32_t column) const {
    const int64_t sample = (outer * source_height + row) * source_width + column;
    narrow(sum, grad_logits[channels_last ? sample * channels + inner : sample]);
  }
};

}  // namespace cuda
}  // namespace fastseg
