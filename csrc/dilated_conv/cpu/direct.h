#pragma once

#include <vector>

#include "layer.h"

// Convolution as a matrix product that is never written down: row p of A, for one tap, is the input
// pixel which that tap sees from output pixel p. Taps that see only padding from all pixels of a
// tile are left out.
namespace fastseg {
namespace FASTSEG_ISA {

// Below this many channels in a group, the pixels that all taps see are copied side by side first:
// a product over so few channels would spend its time on the sums.
constexpr int64_t kGatherBelow = 48;

template <typename T>
class DirectConvolution {
 public:
  explicit DirectConvolution(const Layer<T>& layer)
      : layer_(layer),
        depth_(layer.geometry.group_inputs()),
        gather_(depth_ < kGatherBelow && layer.geometry.taps() > 1),
        stream_(is_streamed(layer, layer.geometry.group_outputs())) {}

  void run(Parallel parallel) {
    const ConvGeometry& g = layer_.geometry;
    const Cut panels(panels_of<T>(g.group_outputs()), kTilePanels, kPanelsOfTask);
    const int64_t pixels = g.batch * g.out_height() * g.out_width();
    const Cut rows = cut_rows(pixels, kRowsOfTask, panels.count * g.groups);
    zeros_.assign(depth_, T(0));
    parallel(rows.count * panels.count * g.groups, [&](int64_t task) {
      // Tasks that follow each other share their weights.
      const int64_t row = task % rows.count, rest = task / rows.count;
      run_task({rows.begin(row), rows.end(row), panels.begin(rest % panels.count),
                panels.end(rest % panels.count), rest / panels.count});
      if (stream_) fence_stores();
    });
  }

 private:
  static constexpr int64_t kRowsOfTask = 96, kPanelsOfTask = 36;

  struct Task {
    int64_t row, row_end, panel, panel_end, group;
  };
  // Output pixels, and the input pixels that their taps see: zeros where they see padding. There
  // are some more pointers than `count`, as many as a tile has rows.
  struct Rows {
    int64_t count, stride;
    std::vector<T*> output;
    std::vector<const T*> residual;  // empty: none
    std::vector<const T*> seen;      // [tap][stride]
    std::vector<char> active;        // [tap][tile]: whether any of the tile's rows sees the image

    Rows(int64_t count, int64_t taps, bool has_residual, const T* zeros)
        : count(count),
          stride(count + 2 * kTileRows),
          output(stride),
          residual(has_residual ? stride : 0),
          seen(taps * stride, zeros),
          active(taps * tiles()) {}
    int64_t tiles() const { return (count + kTileRows - 1) / kTileRows; }
  };

  void run_task(const Task& task) {
    const ConvGeometry& g = layer_.geometry;
    const int64_t count = task.row_end - task.row, taps = g.taps();
    Rows rows(count, taps, layer_.residual.data != nullptr, zeros_.data());
    place_rows(task, &rows);
    if (!gather_) return multiply_rows_of(task, rows, taps, depth_);
    std::vector<T> gathered(count * taps * depth_);
    for (int64_t i = 0; i < count; ++i) {
      T* to = gathered.data() + i * taps * depth_;
      for (int64_t tap = 0; tap < taps; ++tap, to += depth_) {
        std::copy_n(rows.seen[tap * rows.stride + i], depth_, to);
      }
    }
    for (int64_t i = 0; i < count; ++i) rows.seen[i] = gathered.data() + i * taps * depth_;
    std::fill_n(rows.active.begin(), rows.tiles(), 1);
    multiply_rows_of(task, rows, 1, taps * depth_);
  }

  void place_rows(const Task& task, Rows* rows) const {
    const ConvGeometry& g = layer_.geometry;
    const int64_t width = g.out_width(), height = g.out_height(), tiles = rows->tiles();
    const int64_t output = task.group * g.group_outputs(), input = task.group * depth_;
    int64_t x = task.row % width, y = task.row / width % height, b = task.row / (width * height);
    for (int64_t i = 0; i < rows->count; ++i) {
      rows->output[i] = layer_.output.at(b, y, x) + output;
      if (layer_.residual.data) rows->residual[i] = layer_.residual.at(b, y, x) + output;
      int64_t tap = 0;
      for (int64_t row = 0; row < g.kernel_height; ++row) {
        const int64_t from_y = y * g.stride[0] - g.padding[0] + row * g.rate[0];
        for (int64_t column = 0; column < g.kernel_width; ++column, ++tap) {
          const int64_t from_x = x * g.stride[1] - g.padding[2] + column * g.rate[1];
          if (from_y < 0 || from_y >= g.height || from_x < 0 || from_x >= g.width) continue;
          rows->seen[tap * rows->stride + i] = layer_.input.at(b, from_y, from_x) + input;
          rows->active[tap * tiles + i / kTileRows] = 1;
        }
      }
      if (++x < width) continue;
      x = 0;
      if (++y < height) continue;
      y = 0;
      ++b;
    }
  }

  // `depth` values that lie side by side, from each of the first `taps` pixels of a row.
  void multiply_rows_of(const Task& task, Rows& rows, int64_t taps, int64_t depth) const {
    const int64_t tiles = rows.tiles();
    // Taps of each tile that see any of the image; at least one, so that the tile is written.
    std::vector<int64_t> first(tiles, -1), last(tiles, 0);
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t t = 0; t < tiles; ++t) {
        if (!rows.active[tap * tiles + t]) continue;
        if (first[t] < 0) first[t] = tap;
        last[t] = tap;
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      if (first[t] < 0) rows.active[t] = 1, first[t] = 0;
    }
    const ConvGeometry& g = layer_.geometry;
    const int64_t panel_size = taps * depth * kPanel<T>;
    const T* weights = layer_.packed + task.group * panels_of<T>(g.group_outputs()) * panel_size;
    for (int64_t panel = task.panel, panels; panel < task.panel_end; panel += panels) {
      panels = panels_at_once(task.panel_end - panel);
      const int64_t column = panel * kPanel<T>;
      Tile<T> tile = {};
      tile.b_stride = panel_size;
      tile.columns = std::min(panels * kPanel<T>, g.group_outputs() - column);
      tile.activation = layer_.activation;
      if (layer_.bias) tile.column_bias = layer_.bias + task.group * g.group_outputs() + column;
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t k = 0; k < depth; k += kDepth) {
          tile.depth = std::min(kDepth, depth - k);
          tile.b = weights + panel * panel_size + (tap * depth + k) * kPanel<T>;
          // What is packed behind these weights, or the next panels.
          const T* next = tile.b + tile.depth * kPanel<T>;
          if (tap + 1 == taps && k + kDepth >= depth) {
            const bool more = panel + panels < task.panel_end;
            next = more ? weights + (panel + panels) * panel_size : nullptr;
          }
          const Ahead<T> ahead(next, std::min(kDepth, depth), tile.depth, tiles);
          for (int64_t t = 0; t < tiles; ++t) {
            if (!rows.active[tap * tiles + t]) continue;
            const int64_t row = t * kTileRows;
            const T* const* pixel = rows.seen.data() + tap * rows.stride + row;
            copy_rows(tile.a, pixel, k);
            copy_rows(tile.c, rows.output.data() + row, column);
            if (layer_.residual.data) copy_rows(tile.residual, rows.residual.data() + row, column);
            if (panel == task.panel) {
              copy_rows(tile.ahead_a, pixel + kTileRows, k);
            } else {
              tile.ahead_a[0] = nullptr;
            }
            tile.accumulate = tap > first[t] || k > 0;
            tile.last = tap == last[t] && k + kDepth >= depth;
            tile.stream = stream_ && tile.last;
            ahead.fetch_with(&tile, t);
            multiply<T, false>(tile, std::min<int64_t>(kTileRows, rows.count - row), panels);
          }
        }
      }
    }
  }

  const Layer<T>& layer_;
  const int64_t depth_;
  const bool gather_, stream_;
  std::vector<T> zeros_;
};

// packed [group][O / 16][taps * C][16], or (taps, C) for a depthwise convolution.
template <typename T, typename From>
void pack_direct(const ConvGeometry& g, const From* weight, const int64_t* stride,
                 Parallel parallel, T* packed) {
  const int64_t depth = g.group_inputs(), taps = g.taps();
  const auto value = [&](int64_t output, int64_t tap, int64_t c) {
    return static_cast<T>(
        weight[output * stride[0] + c * stride[1] + tap / g.kernel_width * stride[2] +
               tap % g.kernel_width * stride[3]]);
  };
  if (is_depthwise(g)) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t c = 0; c < g.out_channels; ++c) *packed++ = value(c, tap, 0);
    }
    return;
  }
  const int64_t panels = panels_of<T>(g.group_outputs());
  parallel(g.groups * panels, [&](int64_t task) {
    const int64_t group = task / panels, panel = task % panels;
    const int64_t outputs = std::min<int64_t>(kPanel<T>, g.group_outputs() - panel * kPanel<T>);
    T* to = packed + task * taps * depth * kPanel<T>;
    for (int64_t j = 0; j < kPanel<T>; ++j) {
      const int64_t output = group * g.group_outputs() + panel * kPanel<T> + j;
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t c = 0; c < depth; ++c) {
          to[(tap * depth + c) * kPanel<T> + j] = j < outputs ? value(output, tap, c) : T(0);
        }
      }
    }
  });
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
