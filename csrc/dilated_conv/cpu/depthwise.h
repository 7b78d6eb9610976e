#pragma once

#include <vector>

#include "pointwise.h"

// Depthwise convolution, one weight for each channel and tap: packed (taps, C).
namespace fastseg {
namespace FASTSEG_ISA {

// Images by pixels: vectors of channels. A few outputs of one row, which lie as far apart as the
// taps, are summed at once: their taps see the same pixels, and each pixel is loaded once.
template <typename T>
class Depthwise {
 public:
  explicit Depthwise(const Layer<T>& layer)
      : layer_(layer),
        channels_(layer.geometry.out_channels),
        step_(layer.geometry.stride[1] == 1 ? layer.geometry.rate[1] : 1),
        row_step_(layer.geometry.stride[0] == 1 ? layer.geometry.rate[0] : 1),
        zeros_(channels_ + kL, T(0)),
        stream_(is_streamed(layer, channels_)) {}

  void run(Parallel parallel) const {
    const ConvGeometry& g = layer_.geometry;
    // Rows whose taps see the same rows, one after the other.
    std::vector<int64_t> order;
    for (int64_t phase = 0; phase < std::min(row_step_, g.out_height()); ++phase) {
      for (int64_t y = phase; y < g.out_height(); y += row_step_) order.push_back(y);
    }
    const Cut rows(g.out_height(), 1, std::max<int64_t>(1, std::min(kRows, g.out_height() / 8)));
    parallel(g.batch * rows.count, [&](int64_t task) {
      const int64_t part = task % rows.count;
      for (int64_t i = rows.begin(part); i < rows.end(part); ++i) {
        convolve_row(task / rows.count, order[i]);
      }
      if (stream_) fence_stores();
    });
  }

 private:
  using V = Wide<T>;
  static constexpr int64_t kL = kWideLanes<T>, kRows = 8;
  static constexpr int kBlock = kVectorBytes == 64 ? 8 : 4;  // outputs at once

  void convolve_row(int64_t b, int64_t y) const {
    const ConvGeometry& g = layer_.geometry;
    const bool shared = g.stride[1] == 1 && g.kernel_width == 3 && channels_ >= kL;
    for (int64_t phase = 0; phase < std::min(step_, g.out_width()); ++phase) {
      int64_t x = phase;
      for (; shared && x + (kBlock - 1) * step_ < g.out_width(); x += kBlock * step_) {
        convolve_block<kBlock>(b, y, x);
      }
      for (; shared && x + step_ < g.out_width(); x += 2 * step_) convolve_block<2>(b, y, x);
      for (; x < g.out_width(); x += step_) convolve_pixel(b, y, x);
    }
  }

  const T* pixel_at(int64_t b, int64_t y, int64_t x) const {
    const ConvGeometry& g = layer_.geometry;
    if (y < 0 || y >= g.height || x < 0 || x >= g.width) return nullptr;
    return layer_.input.at(b, y, x);
  }

  // Three taps in a row, stride 1.
  template <int kOutputs>
  void convolve_block(int64_t b, int64_t y, int64_t x) const {
    const ConvGeometry& g = layer_.geometry;
    const int64_t all_rows = g.kernel_height;
    std::vector<const T*> seen;
    std::vector<const T*> weights;
    seen.reserve(all_rows * (kOutputs + 2));
    for (int64_t row = 0; row < all_rows; ++row) {
      const int64_t from = y * g.stride[0] - g.padding[0] + row * g.rate[0];
      if (from < 0 || from >= g.height) continue;
      weights.push_back(layer_.packed + row * 3 * channels_);
      for (int j = 0; j < kOutputs + 2; ++j) {
        const T* pixel = pixel_at(b, from, x - g.padding[2] + j * step_);
        seen.push_back(pixel ? pixel : zeros_.data());
      }
    }
    // What the next block sees in the last row; the other rows were seen before.
    const int64_t last = y * g.stride[0] - g.padding[0] + (all_rows - 1) * g.rate[0];
    const T* ahead[kOutputs];
    T* output[kOutputs];
    const T* residual[kOutputs];
    for (int i = 0; i < kOutputs; ++i) {
      const T* pixel = pixel_at(b, last, x - g.padding[2] + (kOutputs + 2 + i) * step_);
      ahead[i] = pixel ? pixel : zeros_.data();
      output[i] = layer_.output.at(b, y, x + i * step_);
      residual[i] = layer_.residual.data ? layer_.residual.at(b, y, x + i * step_) : nullptr;
    }
    const int64_t rows = static_cast<int64_t>(weights.size());
    for (int64_t next = 0; next < channels_; next += kL) {
      // The last vector reaches back: some values are computed twice.
      const int64_t c = std::min(next, channels_ - kL);
      V sum[kOutputs];
      const V bias = layer_.bias ? load<V>(layer_.bias + c) : V{};
#pragma GCC unroll 8
      for (int i = 0; i < kOutputs; ++i) sum[i] = bias;
#pragma GCC unroll 8
      for (int i = 0; i < kOutputs; ++i) __builtin_prefetch(ahead[i] + c, 0, 2);
      const T* const* pixel = seen.data();
      for (int64_t row = 0; row < rows; ++row, pixel += kOutputs + 2) {
        V weight[3];
#pragma GCC unroll 3
        for (int tap = 0; tap < 3; ++tap) weight[tap] = load<V>(weights[row] + tap * channels_ + c);
#pragma GCC unroll 10
        for (int j = 0; j < kOutputs + 2; ++j) {
          const V value = load<V>(pixel[j] + c);
          // From the right output to the left: each adds its taps from left to right.
          if (j < kOutputs) sum[j] += value * weight[0];
          if (j > 0 && j <= kOutputs) sum[j - 1] += value * weight[1];
          if (j > 1) sum[j - 2] += value * weight[2];
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < kOutputs; ++i) {
        if (residual[i]) sum[i] += load<V>(residual[i] + c);
        sum[i] = activated(layer_.activation, sum[i]);
        if (stream_) {
          store_past_caches(output[i] + c, sum[i]);
        } else {
          store(output[i] + c, sum[i]);
        }
      }
    }
  }

  void convolve_pixel(int64_t b, int64_t y, int64_t x) const {
    const ConvGeometry& g = layer_.geometry;
    std::vector<const T*> seen, weight;
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      const T* pixel =
          pixel_at(b, y * g.stride[0] - g.padding[0] + tap / g.kernel_width * g.rate[0],
                   x * g.stride[1] - g.padding[2] + tap % g.kernel_width * g.rate[1]);
      if (!pixel) continue;
      seen.push_back(pixel);
      weight.push_back(layer_.packed + tap * channels_);
    }
    const size_t count = seen.size();
    T* output = layer_.output.at(b, y, x);
    const T* residual = layer_.residual.data ? layer_.residual.at(b, y, x) : nullptr;
    int64_t c = 0;
    for (; c + kL <= channels_; c += kL) {
      V sum = layer_.bias ? load<V>(layer_.bias + c) : V{};
      for (size_t i = 0; i < count; ++i) sum += load<V>(seen[i] + c) * load<V>(weight[i] + c);
      if (residual) sum += load<V>(residual + c);
      sum = activated(layer_.activation, sum);
      store(output + c, sum);
    }
    for (; c < channels_; ++c) {
      T sum = layer_.bias ? layer_.bias[c] : T(0);
      for (size_t i = 0; i < count; ++i) sum += seen[i][c] * weight[i][c];
      if (residual) sum += residual[c];
      output[c] = activated(layer_.activation, sum);
    }
  }

  const Layer<T>& layer_;
  const int64_t channels_, step_, row_step_;
  const std::vector<T> zeros_;
  const bool stream_;
};

// Planar images, as they lie: vectors of pixels of one row. A plane is copied into a frame of
// zeros.
class PlanarDepthwise {
 public:
  explicit PlanarDepthwise(const PlanarLayer& layer) : layer_(layer) {}

  static bool serves(const ConvGeometry& g) { return is_depthwise(g) && is_dense(g); }

  void run(Parallel parallel) const {
    const ConvGeometry& g = layer_.geometry;
    parallel(g.batch * g.out_channels,
             [&](int64_t task) { convolve_plane(task / g.out_channels, task % g.out_channels); });
  }

 private:
  using V = Wide<float>;
  static constexpr int64_t kL = kWideLanes<float>;

  void convolve_plane(int64_t b, int64_t c) const {
    const ConvGeometry& g = layer_.geometry;
    const int64_t height = g.out_height(), width = g.out_width();
    const int64_t frame_width = g.width + g.padding[2] + g.padding[3] + kL;
    const int64_t frame_height = g.height + g.padding[0] + g.padding[1];
    Buffer<float> frame(frame_height * frame_width);
    frame_plane(layer_.input.data + b * layer_.input.batch + c * layer_.input.channel, frame_width,
                frame.data());
    float* out = layer_.output.data + b * layer_.output.batch + c * layer_.output.channel;
    const Image<const float>& other = layer_.residual;
    const float* residual = other.data ? other.data + b * other.batch + c * other.channel : nullptr;
    std::vector<V> weights;
    std::vector<int64_t> offsets;
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      weights.push_back(broadcast<V>(layer_.packed[tap * g.out_channels + c]));
      offsets.push_back(tap / g.kernel_width * g.rate[0] * frame_width +
                        tap % g.kernel_width * g.rate[1]);
    }
    const V bias = broadcast<V>(layer_.bias ? layer_.bias[c] : 0.0f);
    const auto sum_vectors = [&](auto count, int64_t y, int64_t x) {
      constexpr int kVectors = decltype(count)::value;
      V sum[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[v] = bias;
      const float* row = frame.data() + y * frame_width + x;
      for (size_t tap = 0; tap < weights.size(); ++tap) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          sum[v] += load<V>(row + offsets[tap] + v * kL) * weights[tap];
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = y * width + x + v * kL, left = width - x - v * kL;
        if (left >= kL) {
          if (residual) sum[v] += load<V>(residual + at);
          store(out + at, activated(layer_.activation, sum[v]));
          continue;
        }
        if (residual) {
          V other = {};
          std::memcpy(&other, residual + at, left * sizeof(float));
          sum[v] += other;
        }
        sum[v] = activated(layer_.activation, sum[v]);
        std::memcpy(out + at, &sum[v], left * sizeof(float));
      }
    };
    for (int64_t y = 0; y < height; ++y) {
      int64_t x = 0;
      for (; x + 3 * kL < width; x += 4 * kL) {
        sum_vectors(std::integral_constant<int, 4>(), y, x);
      }
      for (; x < width; x += kL) {
        // The last vector reaches back, where it can: some values are computed twice.
        sum_vectors(std::integral_constant<int, 1>(), y,
                    std::max<int64_t>(0, std::min(x, width - kL)));
      }
    }
  }

  void frame_plane(const float* plane, int64_t frame_width, float* frame) const {
    const ConvGeometry& g = layer_.geometry;
    const Image<const float>& in = layer_.input;
    const auto is_zero = [&](int64_t row) {
      return row < g.padding[0] || row >= g.padding[0] + g.height;
    };
    for (int64_t row = 0; row < g.height + g.padding[0] + g.padding[1]; ++row) {
      float* to = frame + row * frame_width;
      if (is_zero(row)) {
        std::fill_n(to, frame_width, 0.0f);
        continue;
      }
      const float* from = plane + (row - g.padding[0]) * in.row;
      std::fill_n(to, g.padding[2], 0.0f);
      to += g.padding[2];
      if (in.column == 1) {
        std::copy_n(from, g.width, to);
      } else {
        for (int64_t x = 0; x < g.width; ++x) to[x] = from[x * in.column];
      }
      std::fill_n(to + g.width, g.padding[3] + kL, 0.0f);
    }
  }

  const PlanarLayer& layer_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
