#pragma once

#include <vector>

#include "../../dilated_conv/cpu/layout.h"
#include "../aspp.h"

// Sum of score heads: one matrix product of the input's pixels with the weights of all taps, kept
// for every pixel, and then for each output pixel the sum of what its taps find there.
namespace fastseg {
namespace FASTSEG_ISA {

class MergedSum {
 public:
  MergedSum(const AsppCall& call, const float* packed)
      : call_(call),
        packed_(packed),
        offsets_(tap_offsets(call)),
        outputs_(call.branches[0].out_channels),
        pixels_(call.height * call.width),
        panels_(panels_of<float>(static_cast<int64_t>(offsets_.size()) * outputs_)),
        bias_(outputs_ + kPanel<float>, 0.0f) {}

  template <typename T>
  void run(Parallel parallel) {
    add_biases<T>();
    // The last vector of a tap may reach beyond its own values.
    products_.reset((pixels_ * panels_ + 1) * kPanel<float>);
    const Image<const T> input = call_.input.as<const T>();
    const Image<T> output = call_.output.as<T>();
    Buffer<float> copy;
    const bool by_pixels = std::is_same_v<T, float> && input.channel == 1;
    const bool planar = std::is_same_v<T, float> && is_planar(input, call_.width);
    if (!by_pixels && !planar) copy.reset(pixels_ * call_.channels);
    for (int64_t b = 0; b < call_.batch; ++b) {
      Image<const T> image = input;
      image.data += b * input.batch;
      Source source = {nullptr, call_.channels, call_.width * call_.channels, false, 0};
      if (by_pixels || planar) {
        source = {reinterpret_cast<const float*>(image.data), image.column, image.row, planar,
                  image.channel};
      } else {
        to_pixels<T>(image, 1, call_.channels, call_.height, call_.width, parallel, copy.data());
        source.data = copy.data();
      }
      multiply_pixels(source, parallel);
      const Cut cut(pixels_, 1, kPixelsOfTask);
      parallel(cut.count, [&](int64_t task) {
        for (int64_t p = cut.begin(task); p < cut.end(task); ++p) {
          float sum[kMostOutputs + kPanel<float>] = {};
          sum_taps(p, sum);
          T* pixel = output.data + b * output.batch + p / call_.width * output.row +
                     p % call_.width * output.column;
          for (int64_t o = 0; o < outputs_; ++o) {
            pixel[o * output.channel] = static_cast<T>(sum[o]);
          }
        }
      });
    }
  }

 private:
  static constexpr int64_t kRowsOfTask = 96, kMostOutputs = 64;

  // An image by pixels, or by planes.
  struct Source {
    const float* data;
    int64_t column, row;
    bool planar;
    int64_t channel;
  };

  template <typename T>
  void add_biases() {
    for (const AsppBranch& branch : call_.branches) {
      if (branch.bias == nullptr) continue;
      const T* values = static_cast<const T*>(branch.bias);
      for (int64_t o = 0; o < outputs_; ++o) bias_[o] += static_cast<float>(values[o]);
    }
  }

  // The panels of which some pixel of a tile needs some tap: first and one beyond the last, for
  // each group of panels that are multiplied at once.
  struct Span {
    int8_t first, end;
  };

  void find_spans(int64_t row, int64_t rows, Span* spans) const {
    const int64_t groups = (panels_ + kTilePanels - 1) / kTilePanels;
    std::fill(spans, spans + groups, Span{kTilePanels, 0});
    for (size_t tap = 0; tap < offsets_.size(); ++tap) {
      bool needed = false;
      for (int64_t i = 0; i < rows && !needed; ++i) {
        const int64_t y = (row + i) / call_.width - offsets_[tap].first;
        const int64_t x = (row + i) % call_.width - offsets_[tap].second;
        needed = y >= 0 && y < call_.height && x >= 0 && x < call_.width;
      }
      if (!needed) continue;
      const int64_t column = static_cast<int64_t>(tap) * outputs_;
      const int64_t last = (column + outputs_ - 1) / kPanel<float>;
      for (int64_t panel = column / kPanel<float>; panel <= last; ++panel) {
        Span& span = spans[panel / kTilePanels];
        const int8_t inside = static_cast<int8_t>(panel % kTilePanels);
        span.first = std::min(span.first, inside);
        span.end = std::max(span.end, static_cast<int8_t>(inside + 1));
      }
    }
  }

  void multiply_pixels(const Source& source, Parallel parallel) {
    const Cut rows = cut_rows(pixels_, kRowsOfTask, 1);
    const int64_t groups = (panels_ + kTilePanels - 1) / kTilePanels;
    parallel(rows.count, [&](int64_t task) {
      const int64_t begin = rows.begin(task), count = rows.end(task) - begin;
      const int64_t tiles = (count + kTileRows - 1) / kTileRows;
      std::vector<Span> spans(tiles * groups);
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = begin + t * kTileRows;
        find_spans(row, std::min<int64_t>(kTileRows, rows.end(task) - row), &spans[t * groups]);
      }
      std::vector<const float*> pixel(count);
      Buffer<float> turned;
      if (source.planar) turned.reset(count * kDepth);
      for (int64_t k = 0; k < call_.channels; k += kDepth) {
        const int64_t depth = std::min(kDepth, call_.channels - k);
        if (source.planar) {
          transpose(source.data + k * source.channel + begin, source.channel, depth, count,
                    turned.data(), depth);
        }
        for (int64_t i = 0; i < count; ++i) {
          const int64_t p = begin + i;
          pixel[i] = source.planar ? turned.data() + i * depth
                                   : source.data + p / call_.width * source.row +
                                         p % call_.width * source.column + k;
        }
        for (int64_t group = 0; group < groups; ++group) {
          multiply_group({begin, count, k, depth, group}, pixel.data(), &spans[group], groups);
        }
      }
    });
  }

  struct Part {
    int64_t row, rows, k, depth, group;
  };

  // `spans` of this group for each tile, `groups` apart.
  void multiply_group(const Part& part, const float* const* pixel, const Span* spans,
                      int64_t groups) {
    const int64_t panel = part.group * kTilePanels, columns = panels_ * kPanel<float>;
    const int64_t tiles = (part.rows + kTileRows - 1) / kTileRows;
    Tile<float> tile = {};
    tile.b_stride = call_.channels * kPanel<float>;
    tile.depth = part.depth;
    tile.accumulate = part.k > 0;
    const float* weights = packed_ + panel * tile.b_stride + part.k * kPanel<float>;
    const bool more = panel + 2 * kTilePanels <= panels_;
    const Ahead<float> ahead(more ? weights + kTilePanels * tile.b_stride : nullptr, part.depth,
                             part.depth, tiles);
    for (int64_t t = 0; t < tiles; ++t) {
      const Span& span = spans[t * groups];
      if (span.first >= span.end) continue;
      const int64_t row = t * kTileRows;
      const int64_t rows = std::min<int64_t>(kTileRows, part.rows - row);
      tile.b = weights + span.first * tile.b_stride;
      tile.columns = (span.end - span.first) * kPanel<float>;
      for (int64_t i = 0; i < rows; ++i) {
        tile.a[i] = pixel[row + i];
        tile.c[i] = products_.data() + (part.row + row + i) * columns +
                    (panel + span.first) * kPanel<float>;
      }
      ahead.fetch_with(&tile, t);
      multiply<float, false>(tile, rows, span.end - span.first);
    }
  }

  void sum_taps(int64_t p, float* sum) const {
    using V = Wide<float>;
    constexpr int64_t kL = kWideLanes<float>;
    const int64_t y = p / call_.width, x = p % call_.width, columns = panels_ * kPanel<float>;
    const int64_t vectors = (outputs_ + kL - 1) / kL;
    V total[kMostOutputs / kL];
    for (int64_t v = 0; v < vectors; ++v) total[v] = load<V>(bias_.data() + v * kL);
    for (size_t tap = 0; tap < offsets_.size(); ++tap) {
      const int64_t from_y = y + offsets_[tap].first, from_x = x + offsets_[tap].second;
      if (from_y < 0 || from_y >= call_.height || from_x < 0 || from_x >= call_.width) continue;
      const float* found = products_.data() + (from_y * call_.width + from_x) * columns +
                           static_cast<int64_t>(tap) * outputs_;
      for (int64_t v = 0; v < vectors; ++v) total[v] += load<V>(found + v * kL);
    }
    for (int64_t v = 0; v < vectors; ++v) {
      store(sum + v * kL, activated(call_.activation, total[v]));
    }
  }

  const AsppCall& call_;
  const float* packed_;  // without its header
  const TapOffsets offsets_;
  const int64_t outputs_, pixels_, panels_;
  std::vector<float> bias_;
  Buffer<float> products_;  // (H * W, panels * 16): for each tap in turn its O values
};

// packed [taps * O / 16][C][16]; taps that several branches have are added.
template <typename T>
void pack_merged(const AsppCall& call, Parallel parallel, float* packed) {
  const TapOffsets offsets = tap_offsets(call);
  const int64_t outputs = call.branches[0].out_channels;
  const int64_t columns = static_cast<int64_t>(offsets.size()) * outputs;
  parallel(panels_of<float>(columns), [&](int64_t panel) {
    float* to = packed + panel * call.channels * kPanel<float>;
    std::fill(to, to + call.channels * kPanel<float>, 0.0f);
    const int64_t first = panel * kPanel<float>;
    for (int64_t column = first; column < std::min(columns, first + kPanel<float>); ++column) {
      const auto& offset = offsets[column / outputs];
      for (const AsppBranch& branch : call.branches) {
        const int64_t i = offset.first / branch.rate + branch.kernel_height / 2;
        const int64_t j = offset.second / branch.rate + branch.kernel_width / 2;
        if (offset.first % branch.rate != 0 || offset.second % branch.rate != 0 || i < 0 ||
            i >= branch.kernel_height || j < 0 || j >= branch.kernel_width) {
          continue;
        }
        const int64_t* stride = branch.weight.stride;
        const T* from = static_cast<const T*>(branch.weight.data) + column % outputs * stride[0] +
                        i * stride[2] + j * stride[3];
        for (int64_t c = 0; c < call.channels; ++c) {
          to[c * kPanel<float> + column - first] += static_cast<float>(from[c * stride[1]]);
        }
      }
    }
  });
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
