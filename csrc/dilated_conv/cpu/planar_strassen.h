#pragma once

#include "pointwise.h"
#include "strassen.h"

// The same product for planar images, as they lie: rows are output channels, columns are pixels,
// and the quarters of the output are transposed.
namespace fastseg {
namespace FASTSEG_ISA {

class PlanarStrassen {
 public:
  explicit PlanarStrassen(const PlanarLayer& layer)
      : layer_(layer),
        blocks_(strassen::channel_blocks(layer.geometry.in_channels)),
        outputs_(strassen_panels(layer.geometry) * kPanel<float>) {}

  void run(Parallel parallel) {
    const ConvGeometry& g = layer_.geometry;
    const Cut pixels(g.out_height() * g.out_width(), 2 * kStep, 2 * kStep);
    parallel(g.batch * pixels.count, [&](int64_t task) {
      const int64_t part = task % pixels.count;
      run_task({task / pixels.count, pixels.begin(part), pixels.end(part)});
    });
  }

 private:
  static constexpr int64_t kStep = kTilePanels * kPanel<float>;  // pixels of half a task
  static constexpr int64_t kPlanesAhead = 8, kLefts = 7;
  // Caches hold few lines at distances that are powers of two.
  static constexpr int64_t kSkew = 80;

  struct Task {
    int64_t b, pixel, pixel_end;

    int64_t in_half(int half) const {
      return std::clamp<int64_t>(pixel_end - pixel - half * kStep, 0, kStep);
    }
  };

  int64_t left_size() const { return kStep * blocks_.size / 2 + kSkew; }
  int64_t half_of(int64_t block) const { return (blocks_.end(block) - blocks_.begin(block)) / 2; }

  void run_task(const Task& task) const {
    // Halves of the pixels and their sums, in the order of strassen::Left: [panel][channel][16];
    // then what outputs that do not exist read and write.
    Buffer<float> columns(kLefts * left_size() + kTileRows * kStep);
    float* unused = columns.data() + kLefts * left_size();
    std::fill_n(unused, kTileRows * kStep, 0.0f);
    for (int64_t block = 0; block < blocks_.count; ++block) {
      pack_pixels(task, block, columns.data());
      for (int64_t o = 0, rows; o < outputs_; o += rows) {
        rows = std::min<int64_t>(kTileRows, kPanel<float> - o % kPanel<float>);
        multiply_rows_of(task, block, o, rows, columns.data(), unused);
      }
    }
  }

  void pack_pixels(const Task& task, int64_t block, float* columns) const {
    using V = Vec<float, 16>;
    const ConvGeometry& g = layer_.geometry;
    const Image<const float>& in = layer_.input;
    const int64_t half = half_of(block);
    const float* image = in.data + task.b * in.batch + blocks_.begin(block) * in.channel;
    if (is_planar(in, g.width) && is_dense(g) && task.in_half(1) == kStep) {
      for (int64_t c = 0; c < half; ++c) {
        const float* planes[2] = {image + c * in.channel + task.pixel,
                                  image + (half + c) * in.channel + task.pixel};
        for (int64_t j = 0; j < kStep; j += kPanel<float>) {
          V quarter[2][2];
          for (int right = 0; right < 2; ++right) {
            // No processor sees that the next planes follow.
            const float* ahead =
                planes[right] + (c + kPlanesAhead < half ? kPlanesAhead : 0) * in.channel;
            for (int lower = 0; lower < 2; ++lower) {
              __builtin_prefetch(ahead + lower * kStep + j);
              quarter[lower][right] = load<V>(planes[right] + lower * kStep + j);
            }
          }
          store_lefts(quarter, columns + (j / kPanel<float> * half + c) * kPanel<float>);
        }
      }
      return;
    }
    int64_t offset[2 * kStep];
    const int64_t count = task.pixel_end - task.pixel;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t y = (task.pixel + j) / g.out_width(), x = (task.pixel + j) % g.out_width();
      offset[j] = y * g.stride[0] * in.row + x * g.stride[1] * in.column;
    }
    for (int64_t c = 0; c < half; ++c) {
      float values[2][2 * kStep] = {};
      for (int right = 0; right < 2; ++right) {
        const float* plane = image + (right * half + c) * in.channel;
        for (int64_t j = 0; j < count; ++j) values[right][j] = plane[offset[j]];
      }
      for (int64_t j = 0; j < kStep; j += kPanel<float>) {
        const V quarter[2][2] = {{load<V>(values[0] + j), load<V>(values[1] + j)},
                                 {load<V>(values[0] + kStep + j), load<V>(values[1] + kStep + j)}};
        store_lefts(quarter, columns + (j / kPanel<float> * half + c) * kPanel<float>);
      }
    }
  }

  // quarter[lower][right].
  void store_lefts(const Vec<float, 16> (&quarter)[2][2], float* to) const {
    using namespace strassen;
    const int64_t size = left_size();
    const Vec<float, 16> s1 = quarter[1][0] + quarter[1][1], s2 = s1 - quarter[0][0];
    store(to + kA11 * size, quarter[0][0]);
    store(to + kA12 * size, quarter[0][1]);
    store(to + kA22 * size, quarter[1][1]);
    store(to + kS1 * size, s1);
    store(to + kS2 * size, s2);
    store(to + kS3 * size, quarter[0][0] - quarter[1][0]);
    store(to + kS4 * size, quarter[0][1] - s2);
  }

  // Output channels from `o` on, and those half of all panels further.
  void multiply_rows_of(const Task& task, int64_t block, int64_t o, int64_t rows,
                        const float* columns, float* unused) const {
    using namespace strassen;
    const ConvGeometry& g = layer_.geometry;
    const int64_t half = half_of(block), size = left_size();
    const Image<float>& out = layer_.output;
    const Image<const float>& other = layer_.residual;
    alignas(64) float x[kTileRows * kStep], y[kTileRows * kStep];
    for (int index = 0; index < kProducts; ++index) {
      const Step& step = kSteps[index];
      const bool output = is_output(step.to), lower = is_lower(step.to);
      if (output && task.in_half(lower) == 0 && step.also == kNowhere) continue;
      Tile<float> tile = {};
      tile.a[0] = weights_of(layer_.packed, strassen_panels(g), blocks_, block, index) +
                  o / kPanel<float> * half * kPanel<float> + o % kPanel<float>;
      tile.b = columns + step.left * size;
      tile.b_stride = half * kPanel<float>;
      tile.depth = half;
      tile.columns = output ? task.in_half(lower) : kStep;
      tile.accumulate = output && block > 0;
      tile.last = output && block + 1 == blocks_.count;
      tile.activation = layer_.activation;
      const int64_t channel = o + (is_right(step.to) ? outputs_ : 0);
      const int64_t there = output ? std::clamp<int64_t>(g.out_channels - channel, 0, rows) : rows;
      const int64_t pixel = task.pixel + (lower ? kStep : 0);
      float bias[kTileRows] = {};
      if (layer_.bias && output) {
        std::copy_n(layer_.bias + channel, there, bias);
        tile.row_bias = bias;
      }
      if (step.also == kX) space_rows(tile.also, x, kStep);
      if (step.from != kNowhere) space_rows(tile.addend, step.from == kX ? x : y, kStep);
      if (output) {
        space_rows(tile.c, out.data + task.b * out.batch + channel * out.channel + pixel,
                   out.channel);
        if (other.data) {
          space_rows(tile.residual,
                     other.data + task.b * other.batch + channel * other.channel + pixel,
                     other.channel);
        }
        for (int64_t i = there; i < rows; ++i) {
          tile.c[i] = unused + i * kStep;
          if (other.data) tile.residual[i] = tile.c[i];
        }
      } else {
        space_rows(tile.c, step.to == kX ? x : y, kStep);
      }
      multiply<float, true>(tile, rows, kTilePanels);
    }
  }

  const PlanarLayer& layer_;
  const Cut blocks_;       // of channels
  const int64_t outputs_;  // in half, the last of which may not exist
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
