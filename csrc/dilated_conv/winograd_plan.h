#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "dilated_conv.h"

// How a 3x3 convolution of rate r is cut for Winograd's algorithm: nothing but sizes and rates
// decides. It is r * r interleaved convolutions of rate 1, one for each phase; along one axis a
// phase is a line of samples r apart, and a line is covered by tiles. For lines of one to three
// samples with nothing but padding around them there are cheaper tiles that know of the zeros.
namespace fastseg {

// One-dimensional algorithms for three taps.
enum class LineAlgorithm : int { kOne, kTwo, kThree, kF2, kF3, kF4, kF6 };
constexpr int kLineAlgorithms = 7;
constexpr int kMostProducts = 8;
constexpr int kLongestAlone = 3;

struct LineShape {
  int products;     // multiplications
  int outputs;      // for this many outputs,
  int inputs;       // from this many inputs
  int first_input;  // that begin so many samples into the field of view of the first output
};

// kOne: a line of one sample, whose neighbours are padding. kTwo: a line of two, likewise, with
// three products as Karatsuba's. kThree: a line of three, by a discrete Fourier transform of length
// four: two real products, and a complex one of three. kF2 to kF6: F(m, 3) of Winograd, m + 2
// products.
inline LineShape line_shape(LineAlgorithm algorithm) {
  constexpr LineShape kShapes[kLineAlgorithms] = {{1, 1, 1, 1}, {3, 2, 2, 1}, {5, 3, 3, 1},
                                                  {4, 2, 4, 0}, {5, 3, 5, 0}, {6, 4, 6, 0},
                                                  {8, 6, 8, 0}};
  return kShapes[static_cast<int>(algorithm)];
}

// Products of a tile. Of three by three samples: a real transform of both axes has four real values
// and six complex ones.
inline int64_t tile_products(LineAlgorithm rows, LineAlgorithm columns) {
  if (rows == LineAlgorithm::kThree && columns == LineAlgorithm::kThree) return 4 + 6 * 3;
  return int64_t{line_shape(rows).products} * line_shape(columns).products;
}

// The tiles of one axis: at most two algorithms, so that the transformed weights stay few.
struct AxisPlan {
  struct Part {
    LineAlgorithm algorithm;
    std::vector<int32_t> start;  // first output of each tile
  };
  std::vector<Part> parts;
};

struct WinogradPlan {
  // Packed weights hold one block for each pair of parts: rows.parts outside, columns.parts inside.
  AxisPlan rows, columns;
};

namespace winograd {

struct Axis {
  int64_t size, out_size, rate, padding;

  // Samples of the phase that begins at output `phase`.
  int64_t line_length(int64_t phase) const { return (out_size - phase + rate - 1) / rate; }
  int64_t phases() const { return std::min(rate, out_size); }
  // Whether the first and the last input of the line meet only padding.
  bool alone(int64_t phase, int64_t length) const {
    const int64_t first = phase - padding;
    return length <= kLongestAlone && first < 0 && first + rate >= 0 &&
           first + (length + 1) * rate >= size;
  }
};

inline Axis row_axis(const ConvGeometry& g) {
  return {g.height, g.out_height(), g.rate[0], g.padding[0]};
}
inline Axis column_axis(const ConvGeometry& g) {
  return {g.width, g.out_width(), g.rate[1], g.padding[2]};
}

// One or two algorithms for an axis, and what covering it with them takes.
struct Choice {
  LineAlgorithm algorithm[2];
  int count;
  int64_t tiles[2];
};

// Over all tiles, and of one tile of each pair of algorithms.
struct Products {
  int64_t all, of_weights;
};

inline Products products_of(const Choice& rows, const Choice& columns) {
  Products products = {0, 0};
  for (int i = 0; i < rows.count; ++i) {
    for (int j = 0; j < columns.count; ++j) {
      const int64_t of_tile = tile_products(rows.algorithm[i], columns.algorithm[j]);
      products.all += rows.tiles[i] * columns.tiles[j] * of_tile;
      products.of_weights += of_tile;
    }
  }
  return products;
}

// Tiles of each algorithm for one line; false where it cannot be covered.
inline bool cover_line(int64_t length, bool alone, const Choice& choice, int64_t (&tiles)[2]) {
  int64_t fewest = INT64_MAX;
  const auto serves = [&](int i) {
    const LineAlgorithm algorithm = choice.algorithm[i];
    if (algorithm == LineAlgorithm::kOne) return alone && length == 1;
    if (algorithm == LineAlgorithm::kTwo) return alone && length == 2;
    if (algorithm == LineAlgorithm::kThree) return alone && length == 3;
    return true;
  };
  const auto consider = [&](int64_t first, int64_t second) {
    int64_t products = first * line_shape(choice.algorithm[0]).products;
    if (choice.count == 2) products += second * line_shape(choice.algorithm[1]).products;
    if (products >= fewest) return;
    fewest = products;
    tiles[0] = first;
    tiles[1] = second;
  };
  for (int i = 0; i < choice.count; ++i) {
    if (!serves(i)) continue;
    const int64_t outputs = line_shape(choice.algorithm[i]).outputs;
    const int64_t needed = (length + outputs - 1) / outputs;
    consider(i == 0 ? needed : 0, i == 0 ? 0 : needed);
  }
  if (choice.count == 2 && serves(0) && serves(1)) {
    const int64_t small = line_shape(choice.algorithm[0]).outputs;
    const int64_t large = line_shape(choice.algorithm[1]).outputs;
    for (int64_t first = 1; first < large && first * small < length; ++first) {
      consider(first, (length - first * small + large - 1) / large);
    }
  }
  return fewest < INT64_MAX;
}

// The lines of an axis have at most two lengths, and a few more kinds where padding is uneven.
inline bool cover_axis(const Axis& axis, Choice* choice) {
  choice->tiles[0] = choice->tiles[1] = 0;
  int64_t last_length = -1, tiles[2] = {0, 0};
  bool last_alone = false;
  for (int64_t phase = 0; phase < axis.phases(); ++phase) {
    const int64_t length = axis.line_length(phase);
    const bool alone = axis.alone(phase, length);
    if (length != last_length || alone != last_alone) {
      if (!cover_line(length, alone, *choice, tiles)) return false;
      last_length = length;
      last_alone = alone;
    }
    for (int i = 0; i < choice->count; ++i) choice->tiles[i] += tiles[i];
  }
  for (int i = 0; i < choice->count; ++i) {
    if (choice->tiles[i] == 0) return false;  // the other alone is a choice of its own
  }
  return true;
}

// `high` keeps to algorithms whose error is below 3e-6 of the largest output.
inline bool is_allowed(LineAlgorithm algorithm, bool high) {
  return !high || algorithm != LineAlgorithm::kF6;
}

inline std::vector<Choice> choices(const Axis& axis, bool high) {
  std::vector<Choice> found;
  for (int i = 0; i < kLineAlgorithms; ++i) {
    for (int j = i; j < kLineAlgorithms; ++j) {
      const LineAlgorithm a = static_cast<LineAlgorithm>(i), b = static_cast<LineAlgorithm>(j);
      if (!is_allowed(a, high) || !is_allowed(b, high)) continue;
      Choice choice = {{a, b}, i == j ? 1 : 2, {}};
      if (cover_axis(axis, &choice)) found.push_back(choice);
    }
  }
  return found;
}

// Nanoseconds, on two threads of a Zen 4 (2026-11), of a float of the transformed weights (25
// GB/s), of a product (200 GFLOP/s), and of a float that is transformed there or back.
constexpr double kWeightCost = 4 / 25.0, kProductCost = 2 / 200.0, kTransformCost = 0.4;

inline double cost(const ConvGeometry& g, const Choice& rows, const Choice& columns) {
  const double inputs = static_cast<double>(g.in_channels);
  const double outputs = static_cast<double>(g.out_channels);
  const Products count = products_of(rows, columns);
  const double products = static_cast<double>(g.batch) * static_cast<double>(count.all);
  const double weights = inputs * outputs * static_cast<double>(count.of_weights);
  return products * (inputs * outputs * kProductCost + (inputs + outputs) * kTransformCost) +
         weights * kWeightCost;
}

inline AxisPlan tiles_of(const Axis& axis, const Choice& choice) {
  AxisPlan plan;
  for (int i = 0; i < choice.count; ++i) plan.parts.push_back({choice.algorithm[i], {}});
  for (int64_t phase = 0; phase < axis.phases(); ++phase) {
    const int64_t length = axis.line_length(phase);
    int64_t tiles[2] = {0, 0}, sample = 0;
    cover_line(length, axis.alone(phase, length), choice, tiles);
    for (int i = 0; i < choice.count; ++i) {
      for (int64_t tile = 0; tile < tiles[i]; ++tile) {
        plan.parts[i].start.push_back(static_cast<int32_t>(phase + sample * axis.rate));
        sample += line_shape(choice.algorithm[i]).outputs;
      }
    }
  }
  return plan;
}

struct Best {
  Choice rows, columns;
  double cost;

  int64_t weight_products() const { return products_of(rows, columns).of_weights; }
};

// The batch does not matter: the plan, and with it the packed weights, are those of one image.
inline Best best(ConvGeometry g, bool high) {
  g.batch = 1;
  Best found = {{}, {}, -1};
  const std::vector<Choice> all_columns = choices(column_axis(g), high);
  for (const Choice& rows : choices(row_axis(g), high)) {
    for (const Choice& columns : all_columns) {
      const double nanoseconds = cost(g, rows, columns);
      if (found.cost < 0 || nanoseconds < found.cost) found = {rows, columns, nanoseconds};
    }
  }
  return found;
}

}  // namespace winograd

inline bool is_dense(const ConvGeometry& g) { return g.stride[0] == 1 && g.stride[1] == 1; }

inline bool winograd_serves(const ConvGeometry& g) {
  return g.kernel_height == 3 && g.kernel_width == 3 && is_dense(g) && g.groups == 1 &&
         g.in_channels >= 16 && g.out_channels >= 16;
}

inline bool pointwise_serves(const ConvGeometry& g) {
  return g.taps() == 1 && g.groups == 1 && g.padding[0] == 0 && g.padding[1] == 0 &&
         g.padding[2] == 0 && g.padding[3] == 0;
}

// Both matrices are halved along the channels. Halves of the outputs are whole panels: the second
// ends with zeros where it is shorter.
constexpr int64_t kStrassenFewest = 32;  // channels
inline bool strassen_serves(const ConvGeometry& g) {
  return pointwise_serves(g) && g.in_channels % 2 == 0 &&
         std::min(g.in_channels, g.out_channels) >= kStrassenFewest;
}
inline int64_t strassen_panels(const ConvGeometry& g) { return (g.out_channels + 31) / 32; }

inline bool is_depthwise(const ConvGeometry& g) {
  return g.groups > 1 && g.group_inputs() == 1 && g.group_outputs() == 1;
}

inline WinogradPlan winograd_plan(const ConvGeometry& g, bool high) {
  const winograd::Best best = winograd::best(g, high);
  return {winograd::tiles_of(winograd::row_axis(g), best.rows),
          winograd::tiles_of(winograd::column_axis(g), best.columns)};
}

// Packed weights begin with what they were made for.
constexpr int64_t kPackedHeader = 16;

struct PackedLayout {
  int64_t size;  // floats, header included
  float header[kPackedHeader];
};

inline PackedLayout packed_layout(const ConvGeometry& g, ConvAlgorithm algorithm) {
  const auto small = [](int64_t value) { return static_cast<float>(value & 0xffffff); };
  PackedLayout layout = {
      0,
      {7919.0f, static_cast<float>(algorithm), small(g.in_channels), small(g.out_channels),
       small(g.kernel_height), small(g.kernel_width), small(g.groups)}};
  const int64_t panels = (g.group_outputs() + 15) / 16;
  if (algorithm == ConvAlgorithm::kWinograd || algorithm == ConvAlgorithm::kWinogradHigh) {
    const winograd::Best best = winograd::best(g, algorithm == ConvAlgorithm::kWinogradHigh);
    float* next = layout.header + 7;
    for (const winograd::Choice* choice : {&best.rows, &best.columns}) {
      for (int i = 0; i < 2; ++i) {
        *next++ = i < choice->count ? 1.0f + static_cast<int>(choice->algorithm[i]) : 0.0f;
      }
    }
    layout.size = best.weight_products() * panels * 16 * g.in_channels;
  } else if (algorithm == ConvAlgorithm::kStrassen) {
    layout.size = g.in_channels / 2 * strassen_panels(g) * 16 * 7;
  } else if (is_depthwise(g)) {
    layout.size = g.taps() * g.out_channels;
  } else {
    layout.size = g.groups * panels * 16 * g.taps() * g.group_inputs();
  }
  layout.size += kPackedHeader;
  return layout;
}

// What tells packed weights of one layer from others.
inline std::string layout_text(const PackedLayout& layout) {
  std::string text = std::to_string(layout.size);
  for (float value : layout.header) text += " " + std::to_string(static_cast<int64_t>(value));
  return text;
}

}  // namespace fastseg
