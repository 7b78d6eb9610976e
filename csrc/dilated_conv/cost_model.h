#pragma once

#include <algorithm>
#include <optional>

#include "dilated_conv.h"
#include "winograd_plan.h"

// Which algorithm a layer takes, by its shape and rate alone. Times are nanoseconds on two threads
// of a Zen 4 with AVX-512 (2026-11): only their ratios matter.
namespace fastseg {

struct AlgorithmWishes {
  bool channels_last;
  bool high_accuracy;
  bool deterministic;  // never torch's convolution
  bool transformed;    // the weights are transformed once for many calls
};

namespace cost_model {

// Pairs of an output line's sample and a tap that see the input, and not its padding.
inline double seen_taps(int64_t size, int64_t out_size, int64_t kernel, int64_t rate,
                        int64_t stride, int64_t padding) {
  double seen = 0;
  for (int64_t tap = 0; tap < kernel; ++tap) {
    const int64_t first = tap * rate - padding;  // input sample of output 0
    const int64_t begin = first < 0 ? (-first + stride - 1) / stride : 0;
    const int64_t end = first < size ? std::min(out_size, (size - 1 - first) / stride + 1) : 0;
    seen += static_cast<double>(std::max<int64_t>(0, end - begin));
  }
  return seen;
}

// Products that are not with padding.
inline double direct_products(const ConvGeometry& g) {
  return static_cast<double>(g.batch) * static_cast<double>(g.group_inputs()) *
         static_cast<double>(g.out_channels) *
         seen_taps(g.height, g.out_height(), g.kernel_height, g.rate[0], g.stride[0],
                   g.padding[0]) *
         seen_taps(g.width, g.out_width(), g.kernel_width, g.rate[1], g.stride[1], g.padding[2]);
}

inline double outputs_of(const ConvGeometry& g) {
  return static_cast<double>(g.batch) * static_cast<double>(g.out_channels) *
         static_cast<double>(g.out_height() * g.out_width());
}

inline double all_products(const ConvGeometry& g) {
  return outputs_of(g) * static_cast<double>(g.group_inputs() * g.taps());
}

// Copies of planar images by pixels and back.
inline double layout_cost(const ConvGeometry& g, const AlgorithmWishes& wishes) {
  if (wishes.channels_last) return 0;
  return 0.2 * static_cast<double>(g.batch) *
         (static_cast<double>(g.in_channels) * static_cast<double>(g.height * g.width) +
          static_cast<double>(g.out_channels) *
              static_cast<double>(g.out_height() * g.out_width()));
}

// Of any call of ours.
constexpr double kCall = 13e3;

// oneDNN's operator on prepacked weights takes its time before it begins; for the smallest layers
// fastseg.inference calls the plain one.
constexpr double kPrepackedFrom = 2e5;  // products
inline double torch_call_cost(const ConvGeometry& g, const AlgorithmWishes& wishes) {
  const bool prepacked = wishes.channels_last && wishes.transformed &&
                         (g.groups > 1 || direct_products(g) >= kPrepackedFrom);
  return prepacked ? 28e3 : 12e3;
}

inline double torch_cost(const ConvGeometry& g, const AlgorithmWishes& wishes) {
  // 215 GFLOP/s. In planar images torch multiplies padding, too, and unfolds those of larger rates
  // first. Outputs from 32 MiB on are fresh pages in each call: glibc's malloc keeps none so large.
  constexpr double kFreshFrom = double{8 << 20};
  const bool unfolded = !wishes.channels_last && std::max(g.rate[0], g.rate[1]) > 8;
  const double products = wishes.channels_last ? direct_products(g) : all_products(g);
  const double outputs = outputs_of(g);
  return products * (2 / 215.0) * (unfolded ? 1.3 : 1) +
         (outputs >= kFreshFrom ? outputs * 1.1 : 0) + torch_call_cost(g, wishes);
}

// Whole panels of output channels, and for each pixel and tap what its channels share.
inline double direct_cost(const ConvGeometry& g, const AlgorithmWishes& wishes) {
  const double weights =
      static_cast<double>(g.out_channels) * static_cast<double>(g.group_inputs() * g.taps());
  const double panels = static_cast<double>((g.group_outputs() + 15) / 16 * 16) /
                        static_cast<double>(g.group_outputs());
  const double pixels_and_taps = static_cast<double>(g.batch * g.groups) *
                                 static_cast<double>(g.out_height()) *
                                 static_cast<double>(g.out_width()) * static_cast<double>(g.taps());
  return direct_products(g) * panels * (2 / 195.0) + pixels_and_taps * 3.2 +
         weights * (wishes.transformed ? 0.16 : 1) + layout_cost(g, wishes) + kCall;
}

// Seven eighths of the products, and sums of halves of the input and the output.
inline double strassen_cost(const ConvGeometry& g, const AlgorithmWishes& wishes) {
  const double pixels =
      static_cast<double>(g.batch) * static_cast<double>(g.out_height() * g.out_width());
  const double channels = static_cast<double>(g.in_channels + g.out_channels);
  const double weights = static_cast<double>(g.in_channels) * static_cast<double>(g.out_channels);
  const double panels =
      static_cast<double>(strassen_panels(g) * 32) / static_cast<double>(g.out_channels);
  return direct_products(g) * panels * (0.875 * 2 / 212.0) + pixels * channels * 0.05 +
         weights * (wishes.transformed ? 0.28 : 3) + layout_cost(g, wishes) + kCall;
}

inline double winograd_cost(const ConvGeometry& g, const AlgorithmWishes& wishes) {
  const winograd::Best best = winograd::best(g, wishes.high_accuracy);
  const double pairs = static_cast<double>(g.in_channels) * static_cast<double>(g.out_channels);
  const double weights = pairs * static_cast<double>(best.weight_products());
  const double of_weights = weights * winograd::kWeightCost;
  return static_cast<double>(g.batch) * (best.cost - of_weights) + of_weights +
         (wishes.transformed ? 0 : weights * 0.5) + layout_cost(g, wishes) + kCall;
}

}  // namespace cost_model

inline std::optional<ConvAlgorithm> choose_pointwise(const ConvGeometry& g,
                                                     const AlgorithmWishes& wishes) {
  // torch's kernels are of the speed of this one, and those for planar images far slower.
  const bool torch = wishes.channels_last && !wishes.deterministic;
  const int64_t fewest = wishes.channels_last ? 128 : 256, fewest_of_both = 3 * fewest;
  const bool worth = !wishes.high_accuracy && strassen_serves(g) &&
                     std::min(g.in_channels, g.out_channels) >= fewest &&
                     g.in_channels + g.out_channels >= fewest_of_both &&
                     g.out_height() * g.out_width() >= 128;
  const double pointwise = cost_model::direct_cost(g, wishes);
  const double torchs = torch ? cost_model::torch_cost(g, wishes) : pointwise;
  if (worth && cost_model::strassen_cost(g, wishes) < std::min(torchs, pointwise)) {
    return ConvAlgorithm::kStrassen;
  }
  if (torchs < pointwise) return std::nullopt;
  return ConvAlgorithm::kPointwise;
}

// What is faster than torch. By pixels, neighbouring outputs share what they load, and channels
// fill vectors; planar images have a kernel for stride 1 and would be copied for others.
inline bool has_depthwise_kernel(const ConvGeometry& g, bool channels_last) {
  if (!channels_last) return is_dense(g);
  return g.stride[1] == 1 && g.kernel_width == 3 && g.out_channels >= 16;
}

// The fastest algorithm for a layer; nullopt is torch's own convolution.
inline std::optional<ConvAlgorithm> choose_algorithm(const ConvGeometry& g,
                                                     const AlgorithmWishes& wishes) {
  if (pointwise_serves(g)) return choose_pointwise(g, wishes);
  if (is_depthwise(g) && (wishes.deterministic || has_depthwise_kernel(g, wishes.channels_last))) {
    return ConvAlgorithm::kDirect;
  }
  double fastest = cost_model::direct_cost(g, wishes);
  std::optional<ConvAlgorithm> choice = ConvAlgorithm::kDirect;
  if (!wishes.deterministic) {
    const double torchs = cost_model::torch_cost(g, wishes);
    if (torchs < fastest) choice = std::nullopt;
    fastest = std::min(fastest, torchs);
  }
  if (winograd_serves(g) && cost_model::winograd_cost(g, wishes) < fastest) {
    return wishes.high_accuracy ? ConvAlgorithm::kWinogradHigh : ConvAlgorithm::kWinograd;
  }
  return choice;
}

}  // namespace fastseg
