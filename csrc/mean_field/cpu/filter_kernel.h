#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../mean_field.h"
#include "row_blur.h"

namespace fastseg {
namespace FASTSEG_ISA {

constexpr float kLog2E = 1.44269504f;
constexpr float kTiny = 1e-20f;  // keeps a pixel without neighbours from dividing by zero

// The edges between the eight pixels of a block and a kernel's rows, ready for use: (D + 1, 8).
struct BlockEdges {
  alignas(64) uint32_t offset[(kMaxFeatureDims + 1) * kLanes];  // row * row_step
  alignas(64) float slice[(kMaxFeatureDims + 1) * kLanes];      // row to pixel
  alignas(64) float splat[(kMaxFeatureDims + 1) * kLanes];      // pixel to row
  const float* splat_weights;                                   // `splat`, or `slice` where equal
};

// One kernel of the CRF: its lattice and its normalisation.
//
// With n = alpha * K 1 and alpha = 1 / (1 + 2^-D) (the lattice's self weight becomes one):
// before K/n_j, after K/n_i, symmetric K/sqrt(n_i n_j), mean K/mean(n), none K.
//
// An update streams every pixel's edges from memory, and that is what bounds it. So the edges are
// kept in 16 bits: barycentric weights in units of 1/65535, and rows counted from the chunk's
// first, in 32 bits only where a chunk has more than 65536 of them.
class FilterKernel {
 public:
  Error build(const PointOrder& order, const KernelSpec& spec, int64_t labels, Parallel parallel) {
    if (Error error =
            lattice_.build(order, spec.features, static_cast<int>(spec.dims), parallel)) {
      return error;
    }
    transform_.assign(spec.transform, spec.transform + spec.transform_size);
    if (labels == 1) transform_.resize(1);
    scale_ = 1.0f / (1.0f + std::ldexp(1.0f, -lattice_.dims()));
    pack(order, parallel);
    if (!spec.self_message) find_self_shares(order, parallel);
    if (spec.normalization != Normalization::kNone) normalize(order, spec.normalization, parallel);
    return {};
  }

  const Lattice<float>& lattice() const { return lattice_; }
  const std::vector<float>& transform() const { return transform_; }
  float scale() const { return scale_; }

  // What the stored weights are multiplied with so that the filter comes out `factor` times.
  struct Units {
    float slice, splat;
    bool split;  // slice and splat weights differ
  };
  Units units(float factor) const {
    const bool scaled = slice_scale_.size() > 0 || splat_scale_.size() > 0;
    const bool equal = (symmetric_ || !scaled) && factor >= 0;
    const float part = equal ? std::sqrt(factor) : factor;
    return {part / 65535.0f, (equal ? part : 1.0f) / 65535.0f, !equal};
  }

  // kCorners is D + 1, or zero where it is not known at compile time.
  template <int kCorners>
  void unpack(int64_t block, uint32_t row_step, Units units, BlockEdges* edges) const {
    using F = Vec<float, kLanes>;
    using I = Vec<int32_t, kLanes>;
    using U = Vec<uint32_t, kLanes>;
    using Short = Vec<uint16_t, kLanes>;
    const int64_t corners = kCorners > 0 ? kCorners : lattice_.dims() + 1;
    const int64_t first = block * corners * kLanes;
    // Two blocks ahead: the hardware's own prefetching gives up at the end of each page.
    const int64_t ahead = first + 2 * corners * kLanes;
    for (int64_t i = 0; i < corners * kLanes; i += 32) {
      __builtin_prefetch(weights_.data() + ahead + i);
      __builtin_prefetch(short_rows_.data() + ahead + i);
    }
    const auto scaled = [block](const Buffer<float>& scale, float unit) {
      return scale.size() ? load<F>(&scale[block * kLanes]) * unit : broadcast<F>(unit);
    };
    const bool split = units.split;
    const F slice = scaled(slice_scale_, units.slice);
    const F splat = scaled(symmetric_ ? slice_scale_ : splat_scale_, units.splat);
    for (int64_t i = 0; i < corners * kLanes; i += kLanes) {
      const U row = short_rows_.size()
                        ? __builtin_convertvector(load<Short>(&short_rows_[first + i]), U)
                        : load<U>(&rows_[first + i]);
      store(edges->offset + i, row * row_step);
      const F weight = __builtin_convertvector(
          __builtin_convertvector(load<Short>(&weights_[first + i]), I), F);
      store(edges->slice + i, weight * slice);
      if (split) store(edges->splat + i, weight * splat);
    }
    edges->splat_weights = split ? edges->splat : edges->slice;
  }

  // Part of the filter's output that is the pixel's own value (blocks, 8), or null where the
  // message to oneself is kept.
  const float* self_share() const { return self_share_.data(); }

  // out (blocks, 8) = the filter of one value for every pixel.
  void filter_ones(const PointOrder& order, Parallel parallel, float* out) const {
    const int corners = lattice_.dims() + 1;
    const Units units = this->units(scale_);
    Buffer<float> rows(lattice_.rows());
    parallel(order.chunks(), [&](int64_t chunk) {
      float* sums = rows.data() + lattice_.chunk_row(chunk);
      std::memset(sums, 0,
                  (lattice_.chunk_row(chunk + 1) - lattice_.chunk_row(chunk)) * sizeof(float));
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        BlockEdges edges;
        unpack<0>(block.index, 1, units, &edges);
        for (int i = 0; i < corners * kLanes; ++i) sums[edges.offset[i]] += edges.splat_weights[i];
      });
    });
    RowBlur<float, 1>::run(lattice_, rows.data(), 1, parallel);
    parallel(order.chunks(), [&](int64_t chunk) {
      const float* values = rows.data() + lattice_.chunk_row(chunk);
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        BlockEdges edges;
        unpack<0>(block.index, 1, units, &edges);
        Vec<float, kLanes> sum = {};
        for (int i = 0; i < corners * kLanes; i += kLanes) {
          sum += load<Vec<float, kLanes>>(edges.slice + i) * gather8(values, edges.offset + i);
        }
        store(out + block.index * kLanes, sum);
      });
    });
  }

 private:
  void pack(const PointOrder& order, Parallel parallel) {
    using F = Vec<float, kLanes>;
    using I = Vec<int32_t, kLanes>;
    using U = Vec<uint32_t, kLanes>;
    using Short = Vec<uint16_t, kLanes>;
    const int64_t stride = lattice_.stride();
    bool fits = true;
    for (int64_t chunk = 0; chunk < order.chunks(); ++chunk) {
      fits &= lattice_.chunk_row(chunk + 1) - lattice_.chunk_row(chunk) <= 65536;
    }
    weights_.reset(order.blocks() * stride);
    fits ? short_rows_.reset(weights_.size()) : rows_.reset(weights_.size());
    parallel(order.chunks(), [&](int64_t chunk) {
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        const int64_t first = block.index * stride;
        const int32_t* row = lattice_.block_rows(block.index);
        const float* weight = lattice_.block_weights(block.index);
        for (int64_t i = 0; i < stride; i += kLanes) {
          const F bounded = vector_max(load<F>(weight + i), F{}) * 65535.0f + 0.5f;
          store(&weights_[first + i],
                __builtin_convertvector(__builtin_convertvector(bounded, I), Short));
          const U rows = load<U>(row + i);
          if (fits) {
            store(&short_rows_[first + i], __builtin_convertvector(rows, Short));
          } else {
            store(&rows_[first + i], rows);
          }
        }
      });
    });
    lattice_.release_blocks();
  }

  void normalize(const PointOrder& order, Normalization normalization, Parallel parallel) {
    Buffer<float> norm(order.blocks() * kLanes);
    filter_ones(order, parallel, norm.data());
    if (normalization == Normalization::kMean) {
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
    symmetric_ = normalization == Normalization::kSymmetric;
    parallel(order.chunks(), [&](int64_t chunk) {
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        for (int64_t i = block.index * kLanes; i < (block.index + 1) * kLanes; ++i) {
          const float n = norm[i] + kTiny;
          norm[i] = symmetric_ ? 1.0f / std::sqrt(n) : 1.0f / n;
          if (self_share_.size() > 0) self_share_[i] *= 1.0f / n;
        }
      });
    });
    (normalization == Normalization::kBefore ? splat_scale_ : slice_scale_) = std::move(norm);
  }

  // The weight with which the lattice returns a point's own value: the blur carries 2^-m along m
  // axes from one vertex of the simplex to another, and 2^-(D + 1 - m) along the other axes,
  // backwards.
  void find_self_shares(const PointOrder& order, Parallel parallel) {
    const int dims = lattice_.dims();
    float carried[kMaxFeatureDims + 1];
    for (int m = 0; m <= dims; ++m) {
      carried[m] = (std::ldexp(1.0f, -m) + std::ldexp(1.0f, m ? m - dims - 1 : -dims)) * scale_;
    }
    self_share_.reset(order.blocks() * kLanes);
    const Units units = this->units(1.0f);
    parallel(order.chunks(), [&](int64_t chunk) {
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        BlockEdges edges;
        unpack<0>(block.index, 1, units, &edges);
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

  Lattice<float> lattice_;
  std::vector<float> transform_;
  float scale_ = 1.0f;             // what a filtered value is multiplied with
  bool symmetric_ = false;         // slice_scale_ serves the splat too
  Buffer<uint16_t> weights_;       // (blocks, D + 1, 8)
  Buffer<uint16_t> short_rows_;    // (blocks, D + 1, 8), or empty
  Buffer<uint32_t> rows_;          // the same where 16 bits are too few
  Buffer<float> slice_scale_;      // (blocks, 8), or empty for one
  Buffer<float> splat_scale_;      // (blocks, 8), or empty for one
  Buffer<float> self_share_;       // (blocks, 8), or empty
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
    const int first = kernels[0].lattice().dims(), second = kernels[1].lattice().dims();
    if (first == 2 && second == 5) return use(Corners<3, 6>());
    if (first == 5 && second == 2) return use(Corners<6, 3>());
    if (first == 3 && second == 4) return use(Corners<4, 5>());
  }
  return use(Corners<0, 0>());
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
