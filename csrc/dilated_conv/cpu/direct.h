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
  // An output pixel, and the input pixels that its taps see; null where they see padding.
  struct Row {
    T* output;
    const T* residual;
  };

  void run_task(const Task& task) {
    const ConvGeometry& g = layer_.geometry;
    const int64_t count = task.row_end - task.row, taps = g.taps();
    std::vector<Row> rows(count);
    std::vector<const T*> seen(taps * count);
    place_rows(task, count, rows.data(), seen.data());
    if (!gather_) return multiply_taps(task, rows.data(), seen.data());
    std::vector<T> gathered(count * taps * depth_);
    for (int64_t i = 0; i < count; ++i) {
      T* to = gathered.data() + i * taps * depth_;
      for (int64_t tap = 0; tap < taps; ++tap, to += depth_) {
        const T* from = seen[tap * count + i];
        std::copy_n(from ? from : zeros_.data(), depth_, to);
      }
    }
    for (int64_t i = 0; i < count; ++i) seen[i] = gathered.data() + i * taps * depth_;
    multiply_rows_of(task, rows.data(), seen.data(), 1, taps * depth_);
  }

  void place_rows(const Task& task, int64_t count, Row* rows, const T** seen) const {
    const ConvGeometry& g = layer_.geometry;
    const int64_t width = g.out_width(), height = g.out_height();
    const int64_t output = task.group * g.group_outputs(), input = task.group * depth_;
    int64_t x = task.row % width, y = task.row / width % height, b = task.row / (width * height);
    for (int64_t i = 0; i < count; ++i) {
      rows[i].output = layer_.output.at(b, y, x) + output;
      rows[i].residual = layer_.residual.data ? layer_.residual.at(b, y, x) + output : nullptr;
      int64_t tap = 0;
      for (int64_t row = 0; row < g.kernel_height; ++row) {
        const int64_t from_y = y * g.stride[0] - g.padding[0] + row * g.rate[0];
        for (int64_t column = 0; column < g.kernel_width; ++column, ++tap) {
          const int64_t from_x = x * g.stride[1] - g.padding[2] + column * g.rate[1];
          const bool inside = from_y >= 0 && from_y < g.height && from_x >= 0 && from_x < g.width;
          seen[tap * count + i] = inside ? layer_.input.at(b, from_y, from_x) + input : nullptr;
        }
      }
      if (++x < width) continue;
      x = 0;
      if (++y < height) continue;
      y = 0;
      ++b;
    }
  }

  void multiply_taps(const Task& task, const Row* rows, const T* const* seen) const {
    multiply_rows_of(task, rows, seen, layer_.geometry.taps(), depth_);
  }

  // `seen` (taps, rows): where `depth` values of each begin.
  void multiply_rows_of(const Task& task, const Row* rows, const T* const* seen, int64_t taps,
                        int64_t depth) const {
    const int64_t count = task.row_end - task.row, tiles = (count + kTileRows - 1) / kTileRows;
    // Taps of each tile that see any of the image; at least one, so that the tile is written.
    std::vector<char> active(taps * tiles, 0);
    std::vector<int64_t> first(tiles, -1), last(tiles, 0);
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t i = 0; i < count; ++i) {
        if (seen[tap * count + i]) active[tap * tiles + i / kTileRows] = 1;
      }
      for (int64_t t = 0; t < tiles; ++t) {
        if (!active[tap * tiles + t]) continue;
        if (first[t] < 0) first[t] = tap;
        last[t] = tap;
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      if (first[t] < 0) active[t] = 1, first[t] = 0;
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
      tile.relu = layer_.relu;
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
            if (!active[tap * tiles + t]) continue;
            const int64_t row = t * kTileRows;
            const int64_t in_tile = std::min<int64_t>(kTileRows, count - row);
            const T* const* pixel = seen + tap * count + row;
            for (int64_t i = 0; i < in_tile; ++i) {
              tile.a[i] = pixel[i] ? pixel[i] + k : zeros_.data();
              tile.c[i] = rows[row + i].output + column;
            }
            if (rows[row].residual) {
              for (int64_t i = 0; i < in_tile; ++i) {
                tile.residual[i] = rows[row + i].residual + column;
              }
            }
            if (panel == task.panel) {
              for (int64_t i = 0; i < in_tile; ++i) {
                const bool more = row + i + kTileRows < count && pixel[i + kTileRows];
                tile.ahead_a[i] = more ? pixel[i + kTileRows] + k : nullptr;
              }
            } else {
              tile.ahead_a[0] = nullptr;
            }
            tile.accumulate = tap > first[t] || k > 0;
            tile.last = tap == last[t] && k + kDepth >= depth;
            tile.stream = stream_ && tile.last;
            ahead.fetch_with(&tile, t);
            multiply<T, false>(tile, in_tile, panels);
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
