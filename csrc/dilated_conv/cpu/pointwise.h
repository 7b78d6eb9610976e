#pragma once

#include "direct.h"

// 1x1 convolution of planar images, as they lie: rows are output channels, columns are pixels. (By
// pixels it is DirectConvolution with a single tap.)
namespace fastseg {
namespace FASTSEG_ISA {

struct PlanarLayer {
  ConvGeometry geometry;
  Image<const float> input;
  const float* packed;  // [O / 16][C][16]
  const float* bias;    // or null
  Image<const float> residual;
  Image<float> output;
  Activation activation;
};

class PlanarPointwise {
 public:
  explicit PlanarPointwise(const PlanarLayer& layer) : layer_(layer) {}

  void run(Parallel parallel) {
    const ConvGeometry& g = layer_.geometry;
    const Cut outputs(panels_of<float>(g.out_channels), 1, kPanelsOfTask);
    const int64_t pixels = g.out_height() * g.out_width();
    int64_t most = kPixelsOfTask;
    while (most > kStep && (pixels + most - 1) / most * outputs.count * g.batch < 16) most /= 2;
    const Cut cut(pixels, kStep, most);
    parallel(g.batch * cut.count * outputs.count, [&](int64_t task) {
      const int64_t part = task % outputs.count, rest = task / outputs.count;
      run_task({rest / cut.count, cut.begin(rest % cut.count), cut.end(rest % cut.count),
                outputs.begin(part), outputs.end(part)});
    });
  }

 private:
  static constexpr int64_t kStep = kTilePanels * kPanel<float>;  // pixels of a tile
  static constexpr int64_t kPixelsOfTask = 96, kPanelsOfTask = 64, kPlanesAhead = 8;

  struct Task {
    int64_t b, pixel, pixel_end, panel, panel_end;
  };

  void run_task(const Task& task) const {
    const ConvGeometry& g = layer_.geometry;
    const int64_t panels = panels_of<float>(task.pixel_end - task.pixel);
    Buffer<float> columns(panels * g.in_channels * kPanel<float>);
    pack_columns(task, columns.data());
    for (int64_t panel = 0, now; panel < panels; panel += now) {
      now = panels_at_once(panels - panel);
      multiply_columns(task, panel, now, columns.data() + panel * g.in_channels * kPanel<float>);
    }
  }

  // columns[panel][c][16]: the task's pixels.
  void pack_columns(const Task& task, float* columns) const {
    using V = Vec<float, 16>;
    const ConvGeometry& g = layer_.geometry;
    const Image<const float>& in = layer_.input;
    const float* image = in.data + task.b * in.batch;
    const int64_t count = task.pixel_end - task.pixel;
    const int64_t panel_size = g.in_channels * kPanel<float>;
    const bool planar = in.column == 1 && in.row == g.width && g.stride[0] == 1 && g.stride[1] == 1;
    std::vector<int64_t> offset(planar ? 0 : count);
    for (int64_t j = 0; j < static_cast<int64_t>(offset.size()); ++j) {
      const int64_t y = (task.pixel + j) / g.out_width(), x = (task.pixel + j) % g.out_width();
      offset[j] = y * g.stride[0] * in.row + x * g.stride[1] * in.column;
    }
    for (int64_t c = 0; c < g.in_channels; ++c) {
      const float* plane = image + c * in.channel;
      float* to = columns + c * kPanel<float>;
      int64_t j = 0;
      if (planar) {
        plane += task.pixel;
        // No processor sees that the next planes follow.
        const float* ahead =
            plane + (c + kPlanesAhead < g.in_channels ? kPlanesAhead * in.channel : 0);
        for (; j + kPanel<float> <= count; j += kPanel<float>, to += panel_size) {
          __builtin_prefetch(ahead + j);
          store(to, load<V>(plane + j));
        }
      }
      for (; j < count; j += kPanel<float>, to += panel_size) {
        for (int64_t i = 0; i < kPanel<float>; ++i) {
          to[i] = j + i >= count ? 0.0f : planar ? plane[j + i] : plane[offset[j + i]];
        }
      }
    }
  }

  void multiply_columns(const Task& task, int64_t panel, int64_t panels,
                        const float* columns) const {
    const ConvGeometry& g = layer_.geometry;
    const int64_t pixel = task.pixel + panel * kPanel<float>;
    const Image<float>& out = layer_.output;
    const Image<const float>& other = layer_.residual;
    Tile<float> tile = {};
    tile.b_stride = g.in_channels * kPanel<float>;
    tile.columns = std::min(panels * kPanel<float>, task.pixel_end - pixel);
    tile.activation = layer_.activation;
    for (int64_t p = task.panel; p < task.panel_end; ++p) {
      const int64_t end = std::min(g.out_channels, (p + 1) * kPanel<float>);
      for (int64_t o = p * kPanel<float>; o < end; o += kTileRows) {
        const int64_t rows = std::min<int64_t>(kTileRows, end - o);
        const float* weights =
            layer_.packed + p * g.in_channels * kPanel<float> + o % kPanel<float>;
        if (layer_.bias) tile.row_bias = layer_.bias + o;
        space_rows(tile.c, out.data + task.b * out.batch + o * out.channel + pixel, out.channel);
        if (other.data) {
          space_rows(tile.residual, other.data + task.b * other.batch + o * other.channel + pixel,
                     other.channel);
        }
        for (int64_t k = 0; k < g.in_channels; k += kDepth) {
          tile.a[0] = weights + k * kPanel<float>;
          tile.b = columns + k * kPanel<float>;
          tile.depth = std::min(kDepth, g.in_channels - k);
          tile.accumulate = k > 0;
          tile.last = k + kDepth >= g.in_channels;
          multiply<float, true>(tile, rows, panels);
        }
      }
    }
  }

  const PlanarLayer& layer_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
