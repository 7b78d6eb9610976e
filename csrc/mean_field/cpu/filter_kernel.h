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
constexpr uint32_t kAllPixels = (1u << kLanes) - 1;
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
    const bool normalized = spec.normalization != Normalization::kNone;
    Packing packing(order, static_cast<int>(spec.dims), normalized, &edges_);
    if (Error error =
            lattice_.build(order, spec.features, static_cast<int>(spec.dims), &packing, parallel)) {
      return error;
    }
    transform_.assign(spec.transform, spec.transform + spec.transform_size);
    if (labels == 1) transform_.resize(1);
    scale_ = 1.0f / (1.0f + std::ldexp(1.0f, -lattice_.dims()));
    if (!spec.self_message) find_self_shares(order, parallel);
    if (normalized) normalize(order, spec.normalization, packing.splat_ones(), parallel);
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

  // Sum over the corners of the block's simplices of weight times the chunk's value of the row:
  // one value for each pixel. kCorners is D + 1, or zero where it is not known at compile time.
  template <int kCorners>
  Vec<float, kLanes> slice(int64_t chunk, int64_t block, const float* values, Units units) const {
    const int64_t count = (kCorners > 0 ? kCorners : lattice_.dims() + 1) * kLanes;
    const uint16_t* weights = edges_.weights.data() + block * count;
    const auto sum_of = [&](const auto* rows) {
      fetch_ahead(weights, rows, count);
      Vec<float, kLanes> sum = {};
#pragma GCC unroll 6
      for (int64_t i = 0; i < count; i += kLanes)
        sum += unpack8(weights + i) * gather8(values, rows + i);
      return sum;
    };
    const auto sum = edges_.wide[chunk] ? sum_of(edges_.wide_rows(block))
                                        : sum_of(edges_.short_rows(chunk, block));
    return sum * scaled(slice_scale_, block, units.slice);
  }

  // The other way round: sums (rows, 2) of the chunk += weight times the pixels' values. Pixels
  // that follow one another add to the same rows, and each addition would wait for the one before:
  // so even and odd pixels have sums of their own.
  template <int kCorners>
  void splat(int64_t chunk, int64_t block, Vec<float, kLanes> pixels, Units units,
             float* sums) const {
    const int64_t count = (kCorners > 0 ? kCorners : lattice_.dims() + 1) * kLanes;
    const uint16_t* weights = edges_.weights.data() + block * count;
    pixels *= scaled(symmetric_ ? slice_scale_ : splat_scale_, block, units.splat);
    alignas(64) float parts[(kMaxFeatureDims + 1) * kLanes];
    for (int64_t i = 0; i < count; i += kLanes) store(parts + i, unpack8(weights + i) * pixels);
    edges_.wide[chunk] ? add_to_sums(edges_.wide_rows(block), parts, count, sums)
                       : add_to_sums(edges_.short_rows(chunk, block), parts, count, sums);
  }

  // rows (rows) of the chunk = even and odd sums together, `unit` times.
  void join_sums(int64_t chunk, const float* sums, float unit, float* rows) const {
    const int64_t first = lattice_.chunk_row(chunk), end = lattice_.chunk_row(chunk + 1);
    for (int64_t i = 0; i < end - first; ++i) {
      rows[first + i] = (sums[2 * i] + sums[2 * i + 1]) * unit;
    }
  }

  // The block's edges as rows of labels need them.
  template <int kCorners>
  void unpack(int64_t chunk, int64_t block, uint32_t row_step, Units units,
              BlockEdges* edges) const {
    using F = Vec<float, kLanes>;
    using U = Vec<uint32_t, kLanes>;
    using Short = Vec<uint16_t, kLanes>;
    const int64_t count = (kCorners > 0 ? kCorners : lattice_.dims() + 1) * kLanes;
    const uint16_t* weights = edges_.weights.data() + block * count;
    const uint16_t* short_rows = edges_.short_rows(chunk, block);
    const uint32_t* rows = edges_.wide_rows(block);
    const bool wide = edges_.wide[chunk];
    wide ? fetch_ahead(weights, rows, count) : fetch_ahead(weights, short_rows, count);
    const bool split = units.split;
    const F slice = scaled(slice_scale_, block, units.slice);
    const F splat = scaled(symmetric_ ? slice_scale_ : splat_scale_, block, units.splat);
    for (int64_t i = 0; i < count; i += kLanes) {
      const U row =
          wide ? load<U>(rows + i) : __builtin_convertvector(load<Short>(short_rows + i), U);
      store(edges->offset + i, row * row_step);
      const F weight = unpack8(weights + i);
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
    const Units units = this->units(scale_);
    Buffer<float> rows(lattice_.rows());
    parallel(order.chunks(), [&](int64_t chunk) {
      Growing<float> sums;
      sums.extend(2 * (lattice_.chunk_row(chunk + 1) - lattice_.chunk_row(chunk)), 0);
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        splat<0>(chunk, block.index, broadcast<Vec<float, kLanes>>(1.0f), units, sums.data());
      });
      join_sums(chunk, sums.data(), 1.0f, rows.data());
    });
    blur_and_slice(order, &rows, units, parallel, out);
  }

 private:
  // Every pixel's edges. Rows take 16 bits until the chunk has too many of them; its part of the
  // memory has room for 32.
  struct PackedEdges {
    Buffer<uint16_t> weights;         // (blocks, D + 1, 8)
    Buffer<uint16_t> rows;            // (blocks, D + 1, 8), 32 bits each
    std::vector<int64_t> first_rows;  // by chunk: where its rows of 16 bits would be for block 0
    std::vector<char> wide;           // by chunk: whether its rows have 32 bits
    int64_t stride;                   // (D + 1) * 8

    uint16_t* short_rows(int64_t chunk, int64_t block) {
      return rows.data() + first_rows[chunk] + block * stride;
    }
    const uint16_t* short_rows(int64_t chunk, int64_t block) const {
      return const_cast<PackedEdges*>(this)->short_rows(chunk, block);
    }
    uint32_t* wide_rows(int64_t block) {
      return reinterpret_cast<uint32_t*>(rows.data() + 2 * block * stride);
    }
    const uint32_t* wide_rows(int64_t block) const {
      return const_cast<PackedEdges*>(this)->wide_rows(block);
    }
  };

  static Vec<float, kLanes> unpack8(const uint16_t* weights) {
    const auto integers =
        __builtin_convertvector(load<Vec<uint16_t, kLanes>>(weights), Vec<int32_t, kLanes>);
    return __builtin_convertvector(integers, Vec<float, kLanes>);
  }

  template <typename Row>
  static void add_to_sums(const Row* rows, const float* parts, int64_t count, float* sums) {
#pragma GCC unroll 8
    for (int p = 0; p < kLanes; ++p) {
#pragma GCC unroll 6
      for (int64_t i = p; i < count; i += kLanes) sums[2 * rows[i] + p % 2] += parts[i];
    }
  }

  // The edges of two blocks ahead: the hardware's own prefetching gives up at the end of each page.
  template <typename Row>
  static void fetch_ahead(const uint16_t* weights, const Row* rows, int64_t count) {
    for (int64_t i = 2 * count; i < 3 * count; i += 32) {
      __builtin_prefetch(weights + i);
      __builtin_prefetch(rows + i);
    }
  }

  static Vec<float, kLanes> scaled(const Buffer<float>& scale, int64_t block, float unit) {
    using F = Vec<float, kLanes>;
    return scale.size() ? load<F>(&scale[block * kLanes]) * unit : broadcast<F>(unit);
  }

  // Packs the edges while the lattice is built, and splats a one for every pixel on the way.
  class Packing : public SimplexSink<float> {
   public:
    Packing(const PointOrder& order, int dims, bool splat_ones, PackedEdges* edges)
        : order_(order), edges_(*edges), ones_(splat_ones ? order.chunks() : 0) {
      edges_.stride = (dims + 1) * kLanes;
      edges_.weights.reset(order.blocks() * edges_.stride);
      edges_.rows.reset(2 * edges_.weights.size());
      edges_.wide.assign(order.chunks(), 0);
      for (int64_t chunk = 0; chunk < order.chunks(); ++chunk) {
        edges_.first_rows.push_back(order.chunk_block(chunk) * edges_.stride);
      }
    }

    void take(int64_t chunk, const PointOrder::Block& block, int64_t row_count, const int32_t* rows,
              const float* weights, const int32_t* /*ranks*/) override {
      using F = Vec<float, kLanes>;
      using I = Vec<int32_t, kLanes>;
      using Short = Vec<uint16_t, kLanes>;
      const int64_t stride = edges_.stride;
      if (row_count > 65536 && !edges_.wide[chunk]) widen(chunk, block.index);
      alignas(64) float rounded[(kMaxFeatureDims + 1) * kLanes];
      uint16_t* packed = edges_.weights.data() + block.index * stride;
      for (int64_t i = 0; i < stride; i += kLanes) {
        const F bounded = vector_max(load<F>(weights + i), F{}) * 65535.0f + 0.5f;
        const I integer = __builtin_convertvector(bounded, I);
        store(packed + i, __builtin_convertvector(integer, Short));
        store(rounded + i, __builtin_convertvector(integer, F));
      }
      if (edges_.wide[chunk]) {
        std::memcpy(edges_.wide_rows(block.index), rows, stride * sizeof(int32_t));
      } else {
        uint16_t* short_rows = edges_.short_rows(chunk, block.index);
        for (int64_t i = 0; i < stride; i += kLanes) {
          store(short_rows + i, __builtin_convertvector(load<I>(rows + i), Short));
        }
      }
      if (ones_.empty()) return;
      auto& ones = ones_[chunk];
      if (static_cast<int64_t>(ones.size()) < 2 * row_count) {
        ones.extend(2 * row_count - ones.size(), 0);
      }
      add_to_sums(rows, rounded, stride, ones.data());
    }

    // By chunk: (rows, 2), sums of the packed weights of the even and of the odd pixels.
    std::vector<Growing<float>>& splat_ones() { return ones_; }

   private:
    // Gives the rows of the chunk's blocks before `end` 32 bits, the last block first: no block's
    // new place reaches into an earlier one's old place.
    void widen(int64_t chunk, int64_t end) {
      using I = Vec<int32_t, kLanes>;
      using Short = Vec<uint16_t, kLanes>;
      alignas(64) int32_t rows[(kMaxFeatureDims + 1) * kLanes];
      for (int64_t block = end - 1; block >= order_.chunk_block(chunk); --block) {
        const uint16_t* from = edges_.short_rows(chunk, block);
        for (int64_t i = 0; i < edges_.stride; i += kLanes) {
          store(rows + i, __builtin_convertvector(load<Short>(from + i), I));
        }
        std::memcpy(edges_.wide_rows(block), rows, edges_.stride * sizeof(int32_t));
      }
      edges_.wide[chunk] = 1;
    }

    const PointOrder& order_;
    PackedEdges& edges_;
    std::vector<Growing<float>> ones_;
  };

  // out (blocks, 8) = what the splat values `rows` are to the pixels; the rows are lost.
  void blur_and_slice(const PointOrder& order, Buffer<float>* rows, Units units, Parallel parallel,
                      float* out) const {
    RowBlur<float, 1>::run(lattice_, rows->data(), 1, parallel);
    parallel(order.chunks(), [&](int64_t chunk) {
      const float* values = rows->data() + lattice_.chunk_row(chunk);
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        store(out + block.index * kLanes, slice<0>(chunk, block.index, values, units));
      });
    });
  }

  void normalize(const PointOrder& order, Normalization normalization,
                 std::vector<Growing<float>>& ones, Parallel parallel) {
    const Units units = this->units(scale_);
    Buffer<float> rows(lattice_.rows());
    parallel(order.chunks(), [&](int64_t chunk) {
      join_sums(chunk, ones[chunk].data(), units.splat, rows.data());
      ones[chunk] = {};
    });
    Buffer<float> norm(order.blocks() * kLanes);
    blur_and_slice(order, &rows, units, parallel, norm.data());
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

  Lattice<float> lattice_;
  std::vector<float> transform_;
  float scale_ = 1.0f;      // what a filtered value is multiplied with
  bool symmetric_ = false;  // slice_scale_ serves the splat too
  PackedEdges edges_;
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
    const int first = kernels[0].lattice().dims(), second = kernels[1].lattice().dims();
    if (first == 2 && second == 5) return use(Corners<3, 6>());
    if (first == 5 && second == 2) return use(Corners<6, 3>());
    if (first == 3 && second == 4) return use(Corners<4, 5>());
  }
  return use(Corners<0, 0>());
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
