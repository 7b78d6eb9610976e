#pragma once

#include <vector>

#include "layer.h"
#include "winograd_short.h"

// Winograd's convolution over images laid out by pixels. Tiles are read at the distance of the rate
// and written back there: no phase is ever copied together.
namespace fastseg {
namespace FASTSEG_ISA {

// All tiles of one pair of line algorithms: the product of the starts of both axes.
struct TileGroup {
  const AxisPlan::Part& rows;
  const AxisPlan::Part& columns;
  LineShape row_shape, column_shape;
  const float* weights;  // [products][O / 16][C][16]

  int64_t products() const { return tile_products(rows.algorithm, columns.algorithm); }
  int64_t per_image() const {
    return static_cast<int64_t>(rows.start.size()) * static_cast<int64_t>(columns.start.size());
  }
  struct Place {
    int64_t b, y, x;  // image, and first output
  };
  Place place(int64_t tile) const {
    const int64_t columns_count = static_cast<int64_t>(columns.start.size());
    const int64_t b = tile / per_image(), inside = tile % per_image();
    return {b, rows.start[inside / columns_count], columns.start[inside % columns_count]};
  }
};

// Scratch memory of one call, used by all its groups in turn.
struct WinogradWorkspace {
  Buffer<float> values, sums;
};

class WinogradGroup {
 public:
  WinogradGroup(const Layer<float>& layer, const TileGroup& group, bool high)
      : layer_(layer),
        group_(group),
        stream_(is_streamed(layer, layer.geometry.group_outputs())),
        short_(short_transforms(group.rows.algorithm, group.columns.algorithm)),
        depth_(short_.input ? kDepth
               : high       ? kDepthOfHigh
                            : kDepthOfDefault) {
    with_line(group.rows.algorithm, [&](auto* line) {
      using L = std::remove_pointer_t<decltype(line)>;
      row_input_ = input_pass<L>;
      row_output_ = output_pass<L>;
    });
    with_line(group.columns.algorithm, [&](auto* line) {
      using L = std::remove_pointer_t<decltype(line)>;
      column_input_ = input_pass<L>;
      column_finish_ = finish_pass<L>;
    });
    plan_memory();
  }

  int64_t values_size() const { return group_.products() * (chunk_ * widest_slice() + kSkew); }
  int64_t sums_size() const { return group_.products() * (chunk_ * width() + kSkew); }

  void run(Parallel parallel, WinogradWorkspace* workspace) {
    values_ = workspace->values.data();
    sums_ = workspace->sums.data();
    const Cut parts(panels_of<float>(layer_.geometry.out_channels), kTilePanels, panels_);
    for (int64_t first = 0; first < tiles(); first += chunk_) {
      first_ = first;
      count_ = std::min(chunk_, tiles() - first);
      const int64_t slices = this->slices();
      for (int64_t slice = 0; slice < slices; ++slice) {
        channel_ = slice * slice_;
        channels_ = slice + 1 < slices ? slice_ : layer_.geometry.in_channels - channel_;
        for_tiles(parallel, [&](int64_t tile) { transform_input(tile); });
        for (int64_t part = 0; part < parts.count; ++part) {
          panel_ = parts.begin(part);
          panel_end_ = parts.end(part);
          multiply_values(parallel);
          if (slice + 1 < slices) continue;
          for_tiles(parallel, [&](int64_t tile) { write_tile(tile); });
        }
      }
    }
  }

 private:
  // Sizes found by measuring on a Zen 4 (1 MiB of second-level cache a core), 2026-11.
  static constexpr int64_t kRowsOfTask = 192, kPanelsOfTask = 12, kTilesOfTask = 4;
  static constexpr int64_t kChunkOfChannels = 64;  // what a transform holds in the first cache
  // Transformed input kept at once, 24 MiB, and sums before they are transformed, 4 MiB.
  static constexpr int64_t kValues = int64_t{6} << 20, kSums = int64_t{1} << 20;
  static constexpr int64_t kFewTiles = 128;  // below this the weights are read too often
  static constexpr int64_t kSmallestSlice = 16;
  // Blocks of channels in the sums, but for short tiles, whose transforms hardly round. Short
  // blocks round less, and cost 2 % of the speed.
  static constexpr int64_t kDepthOfDefault = 256, kDepthOfHigh = 128;
  // Products of one tile lie this much more than a multiple of their size apart: caches hold few
  // lines at distances that are powers of two.
  static constexpr int64_t kSkew = 80;

  // A product of tiles [row, row_end) of the chunk and panels [panel, panel_end).
  struct Block {
    int64_t product, row, row_end, panel, panel_end;
  };

  // The workspace stays below the layer's own input, output and packed weights, or kValues.
  void plan_memory() {
    const ConvGeometry& g = layer_.geometry;
    const int64_t total = tiles(), products = group_.products();
    const int64_t weights = products * g.in_channels * g.out_channels;
    const int64_t of_layer = g.batch * (g.in_channels * g.height * g.width +
                                        g.out_channels * g.out_height() * g.out_width()) +
                             weights;
    // Up to the size of the weights: these are read again for the next tiles.
    const int64_t most = std::min({kValues, of_layer, std::max(kSums, weights)});
    const int64_t all_panels = panels_of<float>(g.out_channels);
    const int64_t fewest_panels = std::min<int64_t>(kTilePanels, all_panels);
    const int64_t of_tile = products * (g.in_channels + fewest_panels * kPanel<float>);
    slice_ = g.in_channels;
    panels_ = all_panels;
    chunk_ = std::min(total, std::max<int64_t>(kTileRows, most / of_tile));
    if (chunk_ >= std::min(total, kFewTiles) || g.in_channels < 2 * depth_) {
      chunk_ = Cut(total, kTileRows, chunk_).size;
      // Sums of some outputs at a time, so that they stay near.
      const int64_t panels = kSums / (products * chunk_ * kPanel<float>);
      panels_ = Cut(all_panels, fewest_panels, std::max(fewest_panels, panels)).size;
      return;
    }
    // Few tiles of many channels: a slice of channels at a time, and all sums kept meanwhile.
    chunk_ = std::min(total, std::max(kFewTiles, most / 2 / (products * all_width())));
    chunk_ = Cut(total, kTileRows, chunk_).size;
    slice_ = std::max<int64_t>(1, most / 2 / (products * chunk_) / depth_) * depth_;
  }
  int64_t tiles() const { return layer_.geometry.batch * group_.per_image(); }
  int64_t slices() const {
    return std::max<int64_t>(1, (layer_.geometry.in_channels - kSmallestSlice) / slice_ + 1);
  }
  int64_t widest_slice() const {
    return std::min(layer_.geometry.in_channels, slice_ + kSmallestSlice);
  }
  int64_t all_width() const {
    return panels_of<float>(layer_.geometry.out_channels) * kPanel<float>;
  }
  int64_t width() const { return panels_ * kPanel<float>; }
  // From product to product.
  int64_t value_stride() const { return count_ * channels_ + kSkew; }
  int64_t sum_stride() const { return count_ * width() + kSkew; }

  template <typename Use>
  void for_tiles(Parallel parallel, Use&& use) const {
    parallel((count_ + kTilesOfTask - 1) / kTilesOfTask, [&](int64_t task) {
      const int64_t last = std::min(count_, (task + 1) * kTilesOfTask);
      for (int64_t tile = task * kTilesOfTask; tile < last; ++tile) use(tile);
      if (stream_) fence_stores();
    });
  }

  // values_[product][tile][channel] of one tile.
  void transform_input(int64_t tile) {
    const ConvGeometry& g = layer_.geometry;
    const LineShape &rows = group_.row_shape, &columns = group_.column_shape;
    const TileGroup::Place place = group_.place(first_ + tile);
    constexpr int kMostInputs = std::max(kMostProducts, kLongestAlone * kLongestAlone);
    alignas(64) static constexpr float kZeros[kChunkOfChannels] = {};
    alignas(64) float half[kMostProducts * kMostProducts * kChunkOfChannels];
    const float* pixel[kMostProducts][kMostProducts];  // [column][row], null outside of the image
    for (int j = 0; j < columns.inputs; ++j) {
      const int64_t x = place.x - g.padding[2] + (columns.first_input + j) * g.rate[1];
      for (int i = 0; i < rows.inputs; ++i) {
        const int64_t y = place.y - g.padding[0] + (rows.first_input + i) * g.rate[0];
        const bool inside = y >= 0 && y < g.height && x >= 0 && x < g.width;
        pixel[j][i] = inside ? layer_.input.at(place.b, y, x) + channel_ : nullptr;
      }
    }
    float* const values = values_ + tile * channels_;
    const auto transform_channels = [&](int64_t c, int64_t count) {
      const float* from[kMostInputs];
      if (short_.input) {
        int pixels = 0;
        for (int i = 0; i < rows.inputs; ++i) {
          for (int j = 0; j < columns.inputs; ++j) {
            from[pixels++] = pixel[j][i] ? pixel[j][i] + c : kZeros;
          }
        }
        return short_.input(from, count, values + c, value_stride());
      }
      for (int j = 0; j < columns.inputs; ++j) {
        for (int i = 0; i < rows.inputs; ++i) from[i] = pixel[j][i] ? pixel[j][i] + c : kZeros;
        row_input_(from, count, half + j * kChunkOfChannels, columns.inputs * kChunkOfChannels);
      }
      for (int i = 0; i < rows.products; ++i) {
        for (int j = 0; j < columns.inputs; ++j) {
          from[j] = half + (i * columns.inputs + j) * kChunkOfChannels;
        }
        column_input_(from, count, values + i * columns.products * value_stride() + c,
                      value_stride());
      }
    };
    const int64_t whole = channels_ / kWideLanes<float> * kWideLanes<float>;
    for (int64_t c = 0; c < whole; c += kChunkOfChannels) {
      transform_channels(c, std::min(kChunkOfChannels, whole - c));
    }
    // The last vector reaches back: some values are computed twice.
    if (whole < channels_) transform_channels(channels_ - kWideLanes<float>, kWideLanes<float>);
  }

  void multiply_values(Parallel parallel) {
    const Cut columns(panel_end_ - panel_, 1, kPanelsOfTask), rows(count_, kTileRows, kRowsOfTask);
    // Tasks that follow each other share their weights, or else their tiles.
    parallel(group_.products() * columns.count * rows.count, [&](int64_t task) {
      const int64_t row = task % rows.count, rest = task / rows.count;
      const int64_t column = rest % columns.count;
      multiply_block({rest / columns.count, rows.begin(row), rows.end(row),
                      panel_ + columns.begin(column), panel_ + columns.end(column)});
    });
  }

  void multiply_block(const Block& block) {
    const int64_t channels = layer_.geometry.in_channels, width = this->width();
    const float* values = values_ + block.product * value_stride();
    const float* weights =
        group_.weights + block.product * all_width() * channels + channel_ * kPanel<float>;
    float* sums = sums_ + block.product * sum_stride();
    for (int64_t k = 0; k < channels_; k += depth_) {
      Tile<float> tile = {};
      tile.b_stride = channels * kPanel<float>;
      tile.depth = std::min(depth_, channels_ - k);
      tile.accumulate = channel_ + k > 0;
      for (int64_t panel = block.panel, panels; panel < block.panel_end; panel += panels) {
        panels = panels_at_once(block.panel_end - panel);
        tile.b = weights + panel * tile.b_stride + k * kPanel<float>;
        tile.columns = panels * kPanel<float>;
        // The next panels of this block of channels, or the next block.
        const float* next = tile.b + panels * tile.b_stride;
        int64_t next_depth = tile.depth;
        if (panel + panels >= block.panel_end) {
          next_depth = std::min(depth_, channels_ - k - depth_);
          next = next_depth > 0
                     ? weights + block.panel * tile.b_stride + (k + depth_) * kPanel<float>
                     : nullptr;
        }
        const Ahead<float> ahead(next, next_depth, tile.depth,
                                 (block.row_end - block.row + kTileRows - 1) / kTileRows);
        for (int64_t row = block.row; row < block.row_end; row += kTileRows) {
          const int64_t rows = std::min<int64_t>(kTileRows, block.row_end - row);
          const float* first = values + row * channels_ + k;
          space_rows(tile.a, first, channels_);
          space_rows(tile.c, sums + row * width + (panel - panel_) * kPanel<float>, width);
          if (panel == block.panel) {
            space_rows(tile.ahead_a, first + kTileRows * channels_, channels_);
          } else {
            tile.ahead_a[0] = nullptr;
          }
          ahead.fetch_with(&tile, (row - block.row) / kTileRows);
          multiply<float, false>(tile, rows, panels);
        }
      }
    }
  }

  void write_tile(int64_t tile) {
    const ConvGeometry& g = layer_.geometry;
    const LineShape &rows = group_.row_shape, &columns = group_.column_shape;
    const TileGroup::Place place = group_.place(first_ + tile);
    alignas(64) float half[kMostProducts * kMostProducts * kChunkOfChannels];
    // The pixels of a row of the tile, from index `at` on.
    Finish finish = {{}, {}, nullptr, layer_.activation, stream_};
    const auto place_row = [&](int i, int64_t first_channel, int at) {
      const int64_t y = place.y + i * g.rate[0];
      for (int j = 0; j < columns.outputs; ++j) {
        const int64_t x = place.x + j * g.rate[1];
        const bool inside = y < g.out_height() && x < g.out_width();
        finish.out[at + j] = inside ? layer_.output.at(place.b, y, x) + first_channel : nullptr;
        if (inside && layer_.residual.data) {
          finish.residual[at + j] = layer_.residual.at(place.b, y, x) + first_channel;
        }
      }
      return y < g.out_height();
    };
    const float* const all_sums = sums_ + tile * width();
    const int64_t channel = panel_ * kPanel<float>;
    const int64_t channels = std::min(width(), g.out_channels - channel);
    for (int64_t c = 0; c < channels; c += kChunkOfChannels) {
      const int64_t count = std::min(kChunkOfChannels, channels - c);
      if (layer_.bias) finish.bias = layer_.bias + channel + c;
      if (short_.output) {
        for (int i = 0; i < rows.outputs; ++i) place_row(i, channel + c, i * columns.outputs);
        short_.output(all_sums + c, sum_stride(), count, finish);
        continue;
      }
      const int64_t whole = (count + kWideLanes<float> - 1) / kWideLanes<float> * kWideLanes<float>;
      for (int j = 0; j < columns.products; ++j) {
        row_output_(all_sums + j * sum_stride() + c, columns.products * sum_stride(), whole,
                    half + j * kChunkOfChannels, columns.products * kChunkOfChannels);
      }
      for (int i = 0; i < rows.outputs && place_row(i, channel + c, 0); ++i) {
        column_finish_(half + i * columns.products * kChunkOfChannels, kChunkOfChannels, count,
                       finish);
      }
    }
  }

  const Layer<float>& layer_;
  const TileGroup group_;
  const bool stream_;
  const ShortTransforms short_;  // in place of the passes, if not null
  const int64_t depth_;          // block of channels in the sums
  InputPass row_input_, column_input_;
  OutputPass row_output_;
  FinishPass column_finish_;
  int64_t chunk_, slice_, panels_;  // tiles, channels and panels of outputs at once
  int64_t first_, count_, channel_, channels_, panel_, panel_end_;  // those now
  float* values_ = nullptr;                                         // [product][tile][channel]
  float* sums_ = nullptr;                                           // [product][tile][output]
};

inline void convolve_winograd(const Layer<float>& layer, bool high, Parallel parallel) {
  const ConvGeometry& g = layer.geometry;
  const WinogradPlan plan = winograd_plan(g, high);
  const float* weights = layer.packed;
  std::vector<WinogradGroup> groups;
  int64_t values = 0, sums = 0;
  for (const AxisPlan::Part& rows : plan.rows.parts) {
    for (const AxisPlan::Part& columns : plan.columns.parts) {
      const TileGroup group = {rows, columns, line_shape(rows.algorithm),
                               line_shape(columns.algorithm), weights};
      groups.emplace_back(layer, group, high);
      values = std::max(values, groups.back().values_size());
      sums = std::max(sums, groups.back().sums_size());
      weights +=
          group.products() * panels_of<float>(g.out_channels) * kPanel<float> * g.in_channels;
    }
  }
  WinogradWorkspace workspace = {Buffer<float>(values), Buffer<float>(sums)};
  for (WinogradGroup& group : groups) group.run(parallel, &workspace);
}

// Weight transform of a line algorithm, as a matrix.
struct WeightMatrix {
  int rows;
  double value[kMostProducts][3];
};

inline WeightMatrix weight_matrix(LineAlgorithm algorithm) {
  WeightMatrix matrix = {line_shape(algorithm).products, {}};
  for (int tap = 0; tap < 3; ++tap) {
    const double unit[3] = {tap == 0 ? 1.0 : 0.0, tap == 1 ? 1.0 : 0.0, tap == 2 ? 1.0 : 0.0};
    double column[kMostProducts] = {};
    with_line(algorithm,
              [&](auto* line) { std::remove_pointer_t<decltype(line)>::weight(unit, column); });
    for (int i = 0; i < matrix.rows; ++i) matrix.value[i][tap] = column[i];
  }
  return matrix;
}

// to[product][panel][c][16] of one panel and all its channels, in double precision.
template <typename T>
void transform_panel(const ConvGeometry& g, const T* weight, const int64_t* stride,
                     const WeightMatrix& rows, const WeightMatrix& columns, int64_t panel,
                     float* to) {
  constexpr int kW = kPanel<float>;
  const int64_t product_stride = panels_of<float>(g.out_channels) * g.in_channels * kW;
  const int64_t outputs = std::min<int64_t>(kW, g.out_channels - panel * kW);
  for (int64_t c = 0; c < g.in_channels; ++c) {
    double taps[3][3][kW] = {}, half[kMostProducts][3][kW];
    for (int64_t o = 0; o < outputs; ++o) {
      const T* kernel = weight + (panel * kW + o) * stride[0] + c * stride[1];
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          taps[i][j][o] = static_cast<float>(kernel[i * stride[2] + j * stride[3]]);
        }
      }
    }
    for (int i = 0; i < rows.rows; ++i) {
      for (int j = 0; j < 3; ++j) {
        for (int o = 0; o < kW; ++o) {
          half[i][j][o] = rows.value[i][0] * taps[0][j][o] + rows.value[i][1] * taps[1][j][o] +
                          rows.value[i][2] * taps[2][j][o];
        }
      }
    }
    for (int i = 0; i < rows.rows; ++i) {
      for (int j = 0; j < columns.rows; ++j) {
        float* out =
            to + (i * columns.rows + j) * product_stride + (panel * g.in_channels + c) * kW;
        for (int o = 0; o < kW; ++o) {
          out[o] = static_cast<float>(columns.value[j][0] * half[i][0][o] +
                                      columns.value[j][1] * half[i][1][o] +
                                      columns.value[j][2] * half[i][2][o]);
        }
      }
    }
  }
}

// The same of the tiles whose products are not those of two lines.
template <typename Tile, typename T>
void transform_panel_of(const ConvGeometry& g, const T* weight, const int64_t* stride,
                        int64_t panel, float* to) {
  constexpr int kW = kPanel<float>;
  const int64_t product_stride = panels_of<float>(g.out_channels) * g.in_channels * kW;
  const int64_t outputs = std::min<int64_t>(kW, g.out_channels - panel * kW);
  for (int64_t c = 0; c < g.in_channels; ++c) {
    float* out = to + (panel * g.in_channels + c) * kW;
    for (int o = 0; o < kW; ++o) {
      double taps[9] = {}, products[Tile::kProducts];
      for (int tap = 0; o < outputs && tap < 9; ++tap) {
        taps[tap] = static_cast<float>(weight[(panel * kW + o) * stride[0] + c * stride[1] +
                                              tap / 3 * stride[2] + tap % 3 * stride[3]]);
      }
      Tile::weight(taps, products);
      for (int i = 0; i < Tile::kProducts; ++i) {
        out[i * product_stride + o] = static_cast<float>(products[i]);
      }
    }
  }
}

template <typename T>
void pack_winograd(const ConvGeometry& g, bool high, const T* weight, const int64_t* stride,
                   Parallel parallel, float* to) {
  const winograd::Best best = winograd::best(g, high);
  const int64_t panels = panels_of<float>(g.out_channels);
  for (int i = 0; i < best.rows.count; ++i) {
    for (int j = 0; j < best.columns.count; ++j) {
      const LineAlgorithm row = best.rows.algorithm[i], column = best.columns.algorithm[j];
      const WeightMatrix rows = weight_matrix(row), columns = weight_matrix(column);
      const bool threes = row == LineAlgorithm::kThree && column == LineAlgorithm::kThree;
      parallel(panels, [&](int64_t panel) {
        if (threes) {
          transform_panel_of<ShortTile<LineOfThree, LineOfThree>>(g, weight, stride, panel, to);
        } else {
          transform_panel(g, weight, stride, rows, columns, panel, to);
        }
      });
      to += tile_products(row, column) * panels * kPanel<float> * g.in_channels;
    }
  }
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
