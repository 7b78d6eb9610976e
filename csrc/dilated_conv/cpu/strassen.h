#pragma once

#include <vector>

#include "direct.h"

// 1x1 convolution by one step of Strassen's algorithm in Winograd's form (Winograd 1971, "On
// multiplication of 2 x 2 matrices"): seven products of halves in place of eight. The weights' sums
// are made when they are packed, the pixels' sums for each block of channels.
namespace fastseg {
namespace FASTSEG_ISA {

namespace strassen {

constexpr int kProducts = 7;
constexpr int64_t kBlock = 1024;  // channels at once

inline Cut channel_blocks(int64_t channels) { return Cut(channels, 32, kBlock); }

// Halves of the pixels' matrix (rows: pixels; columns: channels), and sums of them.
enum Left { kA11, kA12, kA22, kS1, kS2, kS3, kS4 };
// Sums on their way, and quarters of the output.
enum Place { kNowhere, kX, kY, kC11, kC12, kC21, kC22 };

struct Step {
  Left left;
  double right[2][2];  // factors of the weights' quarters B11, B12; B21, B22
  Place from, also, to;
};

// S1 = A21 + A22, S2 = S1 - A11, S3 = A11 - A21, S4 = A12 - S2.
constexpr Step kSteps[kProducts] = {
    {kA11, {{1, 0}, {0, 0}}, kNowhere, kNowhere, kX}, {kA12, {{0, 0}, {1, 0}}, kX, kNowhere, kC11},
    {kS2, {{1, -1}, {0, 1}}, kX, kNowhere, kX},       {kS3, {{0, -1}, {0, 1}}, kX, kNowhere, kY},
    {kS1, {{-1, 1}, {0, 0}}, kY, kX, kC22},           {kS4, {{0, 0}, {0, 1}}, kX, kNowhere, kC12},
    {kA22, {{-1, 1}, {1, -1}}, kY, kNowhere, kC21},
};

constexpr bool is_output(Place place) { return place >= kC11; }
constexpr bool is_lower(Place place) { return place == kC21 || place == kC22; }
constexpr bool is_right(Place place) { return place == kC12 || place == kC22; }

// Where the packed weights of a product begin.
inline const float* weights_of(const float* packed, int64_t panels, const Cut& blocks,
                               int64_t block, int step) {
  const int64_t half = (blocks.end(block) - blocks.begin(block)) / 2;
  return packed + panels * kPanel<float> * (kProducts * blocks.begin(block) / 2 + step * half);
}

}  // namespace strassen

class StrassenPointwise {
 public:
  explicit StrassenPointwise(const Layer<float>& layer)
      : layer_(layer),
        blocks_(strassen::channel_blocks(layer.geometry.in_channels)),
        panels_(strassen_panels(layer.geometry)),
        stream_(is_streamed(layer, layer.geometry.group_outputs())) {}

  void run(Parallel parallel) {
    const ConvGeometry& g = layer_.geometry;
    // Pixels are paired within their image, so that its bits do not depend on the others.
    const Cut rows = cut_rows(g.out_height() * g.out_width(), kRowsOfTask, 1);
    zeros_.assign(g.in_channels, 0.0f);
    parallel(g.batch * rows.count, [&](int64_t task) {
      const int64_t part = task % rows.count;
      run_task(task / rows.count, rows.begin(part), rows.end(part));
      if (stream_) fence_stores();
    });
  }

 private:
  static constexpr int64_t kRowsOfTask = 96, kSums = 4;
  static constexpr int64_t kWidth = kTilePanels * kPanel<float>;

  // Pixels of a task: the first half, then the second; an odd one has a partner of zeros. Behind
  // them are as many pointers as a tile has rows.
  struct Rows {
    std::vector<const float*> input, residual;
    std::vector<float*> output;
    int64_t pairs;
  };

  // Memory of a task.
  struct Scratch {
    float* sums;    // S1 to S4: [sum][pair][channel of half a block]
    float *x, *y;   // [pair][kWidth]
    float* unused;  // output of the partner of zeros: [channel]
  };

  void run_task(int64_t b, int64_t begin, int64_t end) const {
    const ConvGeometry& g = layer_.geometry;
    Rows rows = rows_of(b, begin, end);
    const int64_t sums = kSums * rows.pairs * blocks_.size / 2, tiles = rows.pairs * kWidth;
    Buffer<float> memory(sums + 2 * tiles + g.out_channels);
    const Scratch scratch = {memory.data(), memory.data() + sums, memory.data() + sums + tiles,
                             memory.data() + sums + 2 * tiles};
    if ((end - begin) % 2 == 1) {
      rows.output[end - begin] = scratch.unused;
      if (layer_.residual.data) std::fill_n(scratch.unused, g.out_channels, 0.0f);
      if (layer_.residual.data) rows.residual[end - begin] = scratch.unused;
    }
    for (int64_t block = 0; block < blocks_.count; ++block) {
      for (int64_t panel = 0, panels; panel < panels_; panel += panels) {
        panels = panels_at_once(panels_ - panel);
        for (int step = 0; step < strassen::kProducts; ++step) {
          // The first two steps read no sums, and fetch what these are made of.
          if (panel == 0 && step == 2) add_pixels(rows, block, scratch);
          multiply_half(rows, scratch, block, step, panel, panels);
        }
      }
    }
  }

  Rows rows_of(int64_t b, int64_t begin, int64_t end) const {
    const ConvGeometry& g = layer_.geometry;
    const size_t size = (end - begin + 1) / 2 * 2 + kTileRows;
    Rows rows = {std::vector<const float*>(size, zeros_.data()),
                 std::vector<const float*>(layer_.residual.data ? size : 0),
                 std::vector<float*>(size), (end - begin + 1) / 2};
    for (int64_t p = begin; p < end; ++p) {
      const int64_t y = p / g.out_width(), x = p % g.out_width();
      rows.input[p - begin] = layer_.input.at(b, y * g.stride[0], x * g.stride[1]);
      rows.output[p - begin] = layer_.output.at(b, y, x);
      if (layer_.residual.data) rows.residual[p - begin] = layer_.residual.at(b, y, x);
    }
    return rows;
  }

  int64_t half_of(int64_t block) const { return (blocks_.end(block) - blocks_.begin(block)) / 2; }

  void add_pixels(const Rows& rows, int64_t block, const Scratch& scratch) const {
    const int64_t half = half_of(block), stride = rows.pairs * half;
    for (int64_t pair = 0; pair < rows.pairs; ++pair) {
      const float* upper = rows.input[pair] + blocks_.begin(block);
      const float* lower = rows.input[rows.pairs + pair] + blocks_.begin(block);
      float* to = scratch.sums + pair * half;
      const auto add_at = [&](auto zero, int64_t c) {
        using W = decltype(zero);
        const W a11 = load<W>(upper + c), a12 = load<W>(upper + half + c);
        const W a21 = load<W>(lower + c), s1 = a21 + load<W>(lower + half + c), s2 = s1 - a11;
        store<W>(to + c, s1);
        store<W>(to + stride + c, s2);
        store<W>(to + 2 * stride + c, a11 - a21);
        store<W>(to + 3 * stride + c, a12 - s2);
      };
      int64_t c = 0;
      for (; c + kWideLanes<float> <= half; c += kWideLanes<float>) add_at(Wide<float>{}, c);
      for (; c < half; ++c) add_at(0.0f, c);
    }
  }

  void multiply_half(const Rows& rows, const Scratch& scratch, int64_t block, int index,
                     int64_t panel, int64_t panels) const {
    using namespace strassen;
    const ConvGeometry& g = layer_.geometry;
    const Step& step = kSteps[index];
    const int64_t half = half_of(block), pairs = rows.pairs, width = panels * kPanel<float>;
    const int64_t column = (panel + (is_right(step.to) ? panels_ : 0)) * kPanel<float>;
    const int64_t of_product = panels_ * half * kPanel<float>;
    const float* weights =
        weights_of(layer_.packed, panels_, blocks_, block, index) + panel * half * kPanel<float>;
    Tile<float> tile = {};
    tile.b = weights;
    tile.b_stride = half * kPanel<float>;
    tile.depth = half;
    const bool output = is_output(step.to);
    tile.columns = output ? std::clamp<int64_t>(g.out_channels - column, 0, width) : width;
    tile.accumulate = output && block > 0;
    tile.last = output && block + 1 == blocks_.count;
    tile.activation = layer_.activation;
    tile.stream = stream_ && tile.last;
    if (layer_.bias) tile.column_bias = layer_.bias + column;
    const bool more = index + 1 < kProducts || panel + panels < panels_;
    const float* next = index + 1 < kProducts
                            ? weights + of_product
                            : weights - index * of_product + panels * tile.b_stride;
    const Ahead<float> ahead(more ? next : nullptr, half, half,
                             (pairs + kTileRows - 1) / kTileRows);
    const float* const* input = rows.input.data() + (step.left == kA22 ? pairs : 0);
    const int64_t from_channel = blocks_.begin(block) + (step.left == kA11 ? 0 : half);
    const bool lower = is_lower(step.to);
    float* const sum = step.to == kX ? scratch.x : scratch.y;
    const float* const addend = step.from == kX ? scratch.x : scratch.y;
    for (int64_t row = 0; row < pairs; row += kTileRows) {
      const int64_t at = row * kWidth, pixel = lower ? pairs + row : row;
      if (step.left >= kS1) {
        space_rows(tile.a, scratch.sums + ((step.left - kS1) * pairs + row) * half, half);
      } else {
        copy_rows(tile.a, input + row, from_channel);
      }
      if (panel == 0 && index < 2) {
        copy_rows(tile.ahead_a, rows.input.data() + pairs + row, from_channel);
      }
      if (step.also == kX) space_rows(tile.also, scratch.x + at, kWidth);
      if (step.from != kNowhere) space_rows(tile.addend, addend + at, kWidth);
      if (output) {
        copy_rows(tile.c, rows.output.data() + pixel, column);
        if (layer_.residual.data) copy_rows(tile.residual, rows.residual.data() + pixel, column);
      } else {
        space_rows(tile.c, sum + at, kWidth);
      }
      ahead.fetch_with(&tile, row / kTileRows);
      multiply<float, false>(tile, std::min<int64_t>(kTileRows, pairs - row), panels);
    }
  }

  const Layer<float>& layer_;
  const Cut blocks_;      // of channels
  const int64_t panels_;  // of half of the outputs
  const bool stream_;
  std::vector<float> zeros_;
};

// packed [block of channels][product][panel of half the outputs][channel of half a block][16].
template <typename From>
void pack_strassen(const ConvGeometry& g, const From* weight, const int64_t* stride,
                   Parallel parallel, float* packed) {
  using namespace strassen;
  const Cut blocks = channel_blocks(g.in_channels);
  const int64_t panels = strassen_panels(g);
  parallel(blocks.count * kProducts * panels, [&](int64_t task) {
    const int64_t panel = task % panels, index = task / panels % kProducts;
    const int64_t block = task / (panels * kProducts), begin = blocks.begin(block);
    const int64_t half = (blocks.end(block) - begin) / 2;
    float* to = packed + (weights_of(packed, panels, blocks, block, index) - packed) +
                panel * half * kPanel<float>;
    for (int64_t c = 0; c < half; ++c) {
      for (int64_t j = 0; j < kPanel<float>; ++j) {
        double sum = 0;
        for (int k = 0; k < 2; ++k) {
          for (int n = 0; n < 2; ++n) {
            const int64_t o = (panel + n * panels) * kPanel<float> + j;
            const int64_t from = begin + k * half + c;
            if (o >= g.out_channels) continue;
            sum +=
                kSteps[index].right[k][n] *
                static_cast<double>(static_cast<float>(weight[o * stride[0] + from * stride[1]]));
          }
        }
        to[c * kPanel<float> + j] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
