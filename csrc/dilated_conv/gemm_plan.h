#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cost_model.h"
#include "dilated_conv.h"

// How a convolution runs on a GPU: as a matrix product in tiles of pixels times outputs, whose
// depth (taps times channels) may be split among blocks, or one thread for each output.
//
// float16 and bfloat16 are multiplied by tensor cores and summed in float32. float32 is multiplied
// in TF32 where `tf32` says so, or else by fused multiply-adds: tensor cores cut off their sums, of
// which three TF32 products for one of float32 would keep the error (Ootomo and Yokota 2022,
// "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical
// peak performance", sec. 3), and on GPUs of compute capability 8.6, 8.9 and 12.0 they would take
// three times as long as the multiply-adds.
namespace fastseg {

struct GemmTile {
  int pixels, outputs;
};

constexpr GemmTile kGemmTiles[] = {{128, 128}, {64, 64}, {128, 32}};
constexpr int kGemmTileCount = 3;
constexpr int kGemmSplits[] = {1, 2, 4, 8, 16};

struct GemmPlan {
  bool direct = true;  // one thread for each output: float64, one channel for each group, any size
  int tile = 0;        // of kGemmTiles
  int splits = 1;
  bool tf32 = false;
};

// "direct", or for example "gemm-64x64-split4-tf32".
inline std::string plan_name(const GemmPlan& plan) {
  if (plan.direct) return "direct";
  const GemmTile tile = kGemmTiles[plan.tile];
  std::string name = "gemm-" + std::to_string(tile.pixels) + "x" + std::to_string(tile.outputs);
  if (plan.splits > 1) name += "-split" + std::to_string(plan.splits);
  return plan.tf32 ? name + "-tf32" : name;
}

// All there are, those of TF32 last.
inline std::vector<GemmPlan> gemm_plans() {
  std::vector<GemmPlan> plans = {{}};
  for (const bool tf32 : {false, true}) {
    for (int tile = 0; tile < kGemmTileCount; ++tile) {
      for (const int splits : kGemmSplits) plans.push_back({false, tile, splits, tf32});
    }
  }
  return plans;
}

// Sizes, padding included, that the tiles' 32-bit arithmetic holds.
constexpr int64_t kGemmExtent = int64_t{1} << 28;

// What the choice of a plan depends on.
struct GemmProblem {
  ElementType type;
  int64_t pixels;                // of all outputs
  std::vector<int64_t> outputs;  // of a group, or of each branch that is concatenated
  std::vector<double> depths;    // numbers that a pixel of these sums, of taps that see the input
  int64_t groups = 1;
};

namespace gemm_cost {

// Cycles of an A100, whose 108 multiprocessors have 1024 products of half precision, 512 of TF32
// and 64 of float32 a cycle, and 40 bytes from the L2 cache each. Only ratios matter.
constexpr double kMultiprocessors = 108, kL2Bytes = 40, kMemoryBytes = 1100;
constexpr double kLaunch = 3000, kBlockStart = 1500;

inline double row_numbers(ElementType type) {  // of 64 bytes: the depth of a step
  return type == ElementType::kFloat ? 16 : 32;
}

inline double step_cost(const GemmTile& tile, ElementType type, bool tf32) {
  const double products = static_cast<double>(tile.pixels) * tile.outputs * row_numbers(type);
  const double rate = type != ElementType::kFloat ? 1024 : tf32 ? 512 : 64;
  return std::max(products / rate, (tile.pixels + tile.outputs) * 64 / kL2Bytes);
}

inline double plan_cost(const GemmProblem& problem, const GemmPlan& plan) {
  const GemmTile& tile = kGemmTiles[plan.tile];
  const double step = step_cost(tile, problem.type, plan.tf32);
  const double down = static_cast<double>((problem.pixels + tile.pixels - 1) / tile.pixels);
  double blocks = 0, work = 0, outputs = 0, longest = 0;
  for (size_t i = 0; i < problem.outputs.size(); ++i) {
    const double across = static_cast<double>((problem.outputs[i] + tile.outputs - 1) /
                                              tile.outputs * problem.groups);
    const double block =
        problem.depths[i] / row_numbers(problem.type) / plan.splits * step + kBlockStart;
    blocks += down * across * plan.splits;
    work += down * across * plan.splits * block;
    longest = std::max(longest, block);
    outputs += static_cast<double>(problem.outputs[i] * problem.groups);
  }
  if (blocks == 0) return 0;
  const double rounds = std::ceil(blocks / kMultiprocessors);
  const double busy = std::max(longest, rounds * work / blocks);
  if (plan.splits == 1) return busy;
  const double sums = static_cast<double>(problem.pixels) * outputs * sizeof(float);
  return busy + kLaunch + 2 * plan.splits * sums / (kMultiprocessors * kL2Bytes);
}

}  // namespace gemm_cost

// The plan that costs least.
inline GemmPlan choose_gemm(const GemmProblem& problem, bool tf32) {
  GemmPlan best;
  double least = 0;
  for (const GemmPlan& plan : gemm_plans()) {
    if (plan.direct || plan.tf32 != tf32) continue;
    const double cost = gemm_cost::plan_cost(problem, plan);
    if (!best.direct && cost >= least) continue;
    best = plan;
    least = cost;
  }
  return best;
}

// Numbers of a group's input that an output pixel sees, on average.
inline double seen_depth(const ConvGeometry& g) {
  const double pixels = static_cast<double>(g.out_height() * g.out_width());
  const double outputs = static_cast<double>(g.batch * g.out_channels);
  return outputs > 0 ? cost_model::direct_products(g) / (pixels * outputs) : 0;
}

inline bool gemm_serves(const ConvGeometry& g, ElementType type) {
  if (type == ElementType::kDouble) return false;
  const int64_t most =
      std::max({g.height + g.padding[0] + g.padding[1], g.width + g.padding[2] + g.padding[3],
                g.rate[0] * g.kernel_height, g.rate[1] * g.kernel_width,
                g.out_height() * g.out_width(), g.group_inputs() * g.taps(), g.out_channels});
  return most < kGemmExtent;
}

// The fastest algorithm for a layer; nullopt is torch's, which is cuDNN's. That is taken to be a
// quarter faster where the products are the same; but it multiplies padding, too, and each of the
// `fused` operations that follow (bias, residual, ReLU) is a pass of its own over the output.
inline std::optional<GemmPlan> choose_on_gpu(const ConvGeometry& g, ElementType type, bool tf32,
                                             int64_t fused, bool deterministic) {
  if (g.group_inputs() == 1 && g.groups > 1) return GemmPlan{};
  if (!gemm_serves(g, type)) {
    if (deterministic) return GemmPlan{};
    return std::nullopt;
  }
  GemmProblem problem = {type, g.batch * g.out_height() * g.out_width(), {}, {}};
  problem.outputs = {g.group_outputs()};
  problem.depths = {seen_depth(g)};
  problem.groups = g.groups;
  const GemmPlan own = choose_gemm(problem, tf32);
  if (deterministic) return own;
  GemmProblem padded = problem;
  padded.depths = {static_cast<double>(g.group_inputs() * g.taps())};
  const double size = static_cast<double>(problem.pixels) * static_cast<double>(g.out_channels) *
                      (type == ElementType::kFloat ? 4 : 2);
  const double torchs =
      0.8 * gemm_cost::plan_cost(padded, choose_gemm(padded, tf32)) +
      static_cast<double>(fused) * (gemm_cost::kLaunch + 2 * size / gemm_cost::kMemoryBytes);
  if (torchs < gemm_cost::plan_cost(problem, own)) return std::nullopt;
  return own;
}

}  // namespace fastseg
