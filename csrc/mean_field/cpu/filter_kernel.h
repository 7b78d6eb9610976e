#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../../permutohedral/cpu/planar_lattice.h"
#include "../mean_field.h"
#include "edge_lattice.h"

namespace fastseg {
namespace FASTSEG_ISA {

constexpr float kLog2E = 1.44269504f;
constexpr uint32_t kAllPixels = (1u << kLanes) - 1;
constexpr float kTiny = 1e-20f;  // keeps a pixel without neighbours from dividing by zero

// The edges between the eight pixels of a block and a kernel's rows, ready for use: (D + 1, 8).
struct BlockEdges {
  alignas(64) uint32_t offset[(kMaxFeatureDims + 1) * kLanes];  // row * row_step
  alignas(64) float slice[(kMaxFeatureDims + 1) * kLanes];      // row to pixel
  alignas(64) float splat[(kMaxFeatureDims + 1) * kLanes];      // pixel to row
  const float* splat_weights;                                   // `splat`, or `slice` where equal
};

// One kernel of the CRF: its lattice and its normalisation. The lattice is planar where it can be
// and where two labels need single values only; rows of labels need edges.
//
// With n = alpha * K 1 and alpha = 1 / (1 + 2^-D) (the lattice's self weight becomes one):
// before K/n_j, after K/n_i, symmetric K/sqrt(n_i n_j), mean K/mean(n), none K.
class FilterKernel {
 public:
  Error build(const PointOrder& order, const KernelSpec& spec, int64_t labels, Parallel parallel) {
    transform_.assign(spec.transform, spec.transform + spec.transform_size);
    if (labels == 1) transform_.resize(1);
    dims_ = static_cast<int>(spec.dims);
    normalization_ = spec.normalization;
    if (labels == 2 && dims_ == 2 && spec.self_message) {
      planar_ = plane_.lay_out(order, spec.features, parallel);
    }
    if (planar_) {
      normalize(order, parallel);
      return {};
    }
    return build_edges(order, spec.features, spec.self_message, parallel);
  }

  // Puts edges in the place of a planar lattice.
  Error unfold(const PointOrder& order, Parallel parallel) {
    if (!planar_) return {};
    Buffer<float> features(dims_ * order.points());
    plane_.write_features(features.data());
    planar_ = false;
    plane_ = {};
    return build_edges(order, features.data(), true, parallel);
  }

  bool planar() const { return planar_; }
  int dims() const { return dims_; }
  const Lattice<float>& lattice() const { return edges_.lattice(); }
  const std::vector<float>& transform() const { return transform_; }
  float scale() const { return scale_; }

  // What the lattice's weights are multiplied with so that the filter comes out `factor` times.
  struct Units {
    float slice, splat;
    bool split;  // slice and splat weights differ
  };
  Units units(float factor) const {
    const bool scaled = slice_scale_.size() > 0 || splat_scale_.size() > 0;
    const bool equal = (symmetric_ || !scaled) && factor >= 0;
    const float part = equal ? std::sqrt(factor) : factor;
    const float unit = planar_ ? PlanarLattice::kWeightUnit : EdgeLattice::kWeightUnit;
    return {part * unit, (equal ? part : 1.0f) * unit, !equal};
  }

  // Filters of single values: sums take what is splat, values what is blurred.
  int64_t value_count() const { return planar_ ? plane_.value_count() : edges_.value_count(); }
  int64_t sum_count() const { return planar_ ? plane_.sum_count() : edges_.sum_count(); }
  int64_t chunk_sum(int64_t chunk) const {
    return planar_ ? plane_.chunk_sum(chunk) : edges_.chunk_sum(chunk);
  }
  void blur(const float* sums, float* values, Parallel parallel) const {
    planar_ ? plane_.blur(sums, values, parallel) : edges_.blur(sums, values, parallel);
  }

  // What the blurred values are to the block's pixels. kCorners is D + 1 of a lattice with edges,
  // kPlanar, or zero where neither is known at compile time.
  static constexpr int kPlanar = -1;
  template <int kCorners>
  Vec<float, kLanes> slice(int64_t chunk, const PointOrder::Block& block, const float* values,
                           Units units) const {
    const auto scale = scaled(slice_scale_, block.index, units.slice);
    if (kCorners == kPlanar || (kCorners == 0 && planar_)) {
      return plane_.slice(block, values) * scale;
    }
    constexpr int kEdges = kCorners > 0 ? kCorners : 0;
    return edges_.slice<kEdges>(chunk, block.index, values) * scale;
  }

  // The other way round: adds pixels to the chunk's sums.
  template <int kCorners>
  void splat(int64_t chunk, const PointOrder::Block& block, Vec<float, kLanes> pixels, Units units,
             float* sums) const {
    pixels *= scaled(symmetric_ ? slice_scale_ : splat_scale_, block.index, units.splat);
    if (kCorners == kPlanar || (kCorners == 0 && planar_)) {
      return plane_.splat(chunk, block, pixels, sums);
    }
    constexpr int kEdges = kCorners > 0 ? kCorners : 0;
    edges_.splat<kEdges>(chunk, block.index, pixels, sums);
  }

  // The block's edges as rows of labels need them.
  template <int kCorners>
  void unpack(int64_t chunk, int64_t block, uint32_t row_step, Units units,
              BlockEdges* edges) const {
    using F = Vec<float, kLanes>;
    const bool split = units.split;
    const F slice = scaled(slice_scale_, block, units.slice);
    const F splat = scaled(symmetric_ ? slice_scale_ : splat_scale_, block, units.splat);
    edges_.for_each_edges<kCorners>(chunk, block, row_step,
                                    [&](int64_t i, Vec<uint32_t, kLanes> offset, F weight) {
                                      store(edges->offset + i, offset);
                                      store(edges->slice + i, weight * slice);
                                      if (split) store(edges->splat + i, weight * splat);
                                    });
    edges->splat_weights = split ? edges->splat : edges->slice;
  }

  // Part of the filter's output that is the pixel's own value (blocks, 8), or null where the
  // message to oneself is kept.
  const float* self_share() const { return self_share_.data(); }

  // out (blocks, 8) = the filter of one value for every pixel.
  void filter_ones(const PointOrder& order, Parallel parallel, float* out) const {
    using F = Vec<float, kLanes>;
    const Units units = this->units(scale_);
    Buffer<float> sums(sum_count()), values(value_count());
    parallel(order.chunks(), [&](int64_t chunk) {
      float* own = sums.data() + chunk_sum(chunk);
      std::fill(own, sums.data() + chunk_sum(chunk + 1), 0.0f);
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        splat<0>(chunk, block, broadcast<F>(1.0f), units, own);
      });
    });
    blur(sums.data(), values.data(), parallel);
    slice_all(order, values.data(), units, parallel, out);
  }

 private:
  static Vec<float, kLanes> scaled(const Buffer<float>& scale, int64_t block, float unit) {
    using F = Vec<float, kLanes>;
    return scale.size() ? load<F>(&scale[block * kLanes]) * unit : broadcast<F>(unit);
  }

  bool normalized() const { return normalization_ != Normalization::kNone; }

  Error build_edges(const PointOrder& order, const float* features, bool self_message,
                    Parallel parallel) {
    if (Error error = edges_.build(order, features, dims_, normalized(), parallel)) return error;
    slice_scale_ = {};
    splat_scale_ = {};
    scale_ = lattice_scale();
    if (!self_message) find_self_shares(order, parallel);
    normalize(order, parallel);
    return {};
  }

  float lattice_scale() const { return 1.0f / (1.0f + std::ldexp(1.0f, -dims_)); }

  // out (blocks, 8) = what the blurred values are to the pixels.
  void slice_all(const PointOrder& order, const float* values, Units units, Parallel parallel,
                 float* out) const {
    parallel(order.chunks(), [&](int64_t chunk) {
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        store(out + block.index * kLanes, slice<0>(chunk, block, values, units));
      });
    });
  }

  void normalize(const PointOrder& order, Parallel parallel) {
    scale_ = lattice_scale();
    if (!normalized()) return;
    Buffer<float> values(value_count());
    planar_ ? plane_.blur_ones(order, values.data(), parallel)
            : edges_.blur_ones(values.data(), parallel);
    Units units = this->units(scale_);
    units.slice *= units.splat;
    Buffer<float> norm(order.blocks() * kLanes);
    slice_all(order, values.data(), units, parallel, norm.data());
    if (normalization_ == Normalization::kMean) {
      std::vector<double> sums(order.chunks());
      parallel(order.chunks(), [&](int64_t chunk) {
        order.for_each_block(chunk, [&](const PointOrder::Block& block) {
          for (int p = 0; p < block.count; ++p) sums[chunk] += norm[block.index * kLanes + p];
        });
      });
      double total = 0;
      for (double sum : sums) total += sum;
      const float factor = static_cast<float>(static_cast<double>(order.points()) / total);
      scale_ *= factor;
      for (size_t i = 0; i < self_share_.size(); ++i) self_share_[i] *= factor;
      return;
    }
    symmetric_ = normalization_ == Normalization::kSymmetric;
    parallel(order.chunks(), [&](int64_t chunk) {
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        for (int64_t i = block.index * kLanes; i < (block.index + 1) * kLanes; ++i) {
          const float n = norm[i] + kTiny;
          norm[i] = symmetric_ ? 1.0f / std::sqrt(n) : 1.0f / n;
          if (self_share_.size() > 0) self_share_[i] *= 1.0f / n;
        }
      });
    });
    (normalization_ == Normalization::kBefore ? splat_scale_ : slice_scale_) = std::move(norm);
  }

  // The weight with which the lattice returns a point's own value: the blur carries 2^-m along m
  // axes from one vertex of the simplex to another, and 2^-(D + 1 - m) along the other axes,
  // backwards.
  void find_self_shares(const PointOrder& order, Parallel parallel) {
    const int dims = edges_.dims();
    float carried[kMaxFeatureDims + 1];
    for (int m = 0; m <= dims; ++m) {
      carried[m] = (std::ldexp(1.0f, -m) + std::ldexp(1.0f, m ? m - dims - 1 : -dims)) * scale_;
    }
    self_share_.reset(order.blocks() * kLanes);
    const Units units = this->units(1.0f);
    parallel(order.chunks(), [&](int64_t chunk) {
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        BlockEdges edges;
        unpack<0>(chunk, block.index, 1, units, &edges);
        for (int p = 0; p < kLanes; ++p) {
          float share = 0;
          for (int a = 0; a <= dims; ++a) {
            for (int b = 0; b <= dims; ++b) {
              share += edges.slice[a * kLanes + p] * edges.slice[b * kLanes + p] *
                       carried[std::abs(a - b)];
            }
          }
          self_share_[block.index * kLanes + p] = share;
        }
      });
    });
  }

  int dims_ = 0;
  Normalization normalization_ = Normalization::kNone;
  std::vector<float> transform_;
  float scale_ = 1.0f;      // what a filtered value is multiplied with
  bool symmetric_ = false;  // slice_scale_ serves the splat too
  bool planar_ = false;     // which of the two lattices there is
  PlanarLattice plane_;
  EdgeLattice edges_;
  Buffer<float> slice_scale_;  // (blocks, 8), or empty for one
  Buffer<float> splat_scale_;  // (blocks, 8), or empty for one
  Buffer<float> self_share_;   // (blocks, 8), or empty
};

// How many vertices a simplex of the first and of the second kernel has, where there are two
// kernels of a common kind, so that the compiler unrolls their loops; zeros for any number of any
// kernels.
template <int kFirst, int kSecond>
struct Corners {
  static constexpr int first = kFirst, second = kSecond;
};

template <typename Use>
auto with_corners(const std::vector<FilterKernel>& kernels, Use&& use) {
  if (kernels.size() == 2) {
    const int first = kernels[0].dims(), second = kernels[1].dims();
    if (first == 2 && second == 5) return use(Corners<3, 6>());
    if (first == 5 && second == 2) return use(Corners<6, 3>());
    if (first == 3 && second == 4) return use(Corners<4, 5>());
  }
  return use(Corners<0, 0>());
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
