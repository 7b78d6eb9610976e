#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../../permutohedral/cpu/lattice.h"
#include "row_blur.h"

namespace fastseg {
namespace FASTSEG_ISA {

// A lattice and every pixel's edges to its rows.
//
// An update streams the edges from memory, and that is what bounds it. So they are kept in 16
// bits: barycentric weights in units of 1/65535, and rows counted from the chunk's first, in 32
// bits only where a chunk has more than 65536 of them.
class EdgeLattice {
 public:
  static constexpr float kWeightUnit = 1.0f / 65535.0f;

  // `splat_ones`: blur_ones will be called.
  Error build(const PointOrder& order, const float* features, int dims, bool splat_ones,
              Parallel parallel) {
    ones_.resize(splat_ones ? order.chunks() : 0);
    Packing packing(order, dims, &edges_, &ones_);
    return lattice_.build(order, features, dims, &packing, parallel);
  }

  const Lattice<float>& lattice() const { return lattice_; }
  int dims() const { return lattice_.dims(); }

  // How many floats `values` and `sums` below have.
  int64_t value_count() const { return lattice_.rows(); }
  int64_t sum_count() const { return 2 * lattice_.rows(); }
  // First of the chunk's sums, and at chunks() the end.
  int64_t chunk_sum(int64_t chunk) const { return 2 * lattice_.chunk_row(chunk); }

  // Sums over the corners of the block's simplices of weight times value, of blurred `values`.
  // kCorners is D + 1, or zero where it is not known at compile time.
  template <int kCorners>
  Vec<float, kLanes> slice(int64_t chunk, int64_t block, const float* values) const {
    const int64_t count = (kCorners > 0 ? kCorners : dims() + 1) * kLanes;
    const uint16_t* weights = edges_.weights.data() + block * count;
    values += lattice_.chunk_row(chunk);
    const auto sum_of = [&](const auto* rows) {
      fetch_ahead(weights, rows, count);
      Vec<float, kLanes> sum = {};
#pragma GCC unroll 6
      for (int64_t i = 0; i < count; i += kLanes) {
        sum += unpack8(weights + i) * gather8(values, rows + i);
      }
      return sum;
    };
    return edges_.wide[chunk] ? sum_of(edges_.wide_rows(block))
                              : sum_of(edges_.short_rows(chunk, block));
  }

  // The other way round: the chunk's sums (rows, 2) += weight times pixel. Pixels that follow one
  // another add to the same rows, and each addition would wait for the one before: so even and odd
  // pixels have sums of their own.
  template <int kCorners>
  void splat(int64_t chunk, int64_t block, Vec<float, kLanes> pixels, float* sums) const {
    const int64_t count = (kCorners > 0 ? kCorners : dims() + 1) * kLanes;
    const uint16_t* weights = edges_.weights.data() + block * count;
    alignas(64) float parts[(kMaxFeatureDims + 1) * kLanes];
    for (int64_t i = 0; i < count; i += kLanes) store(parts + i, unpack8(weights + i) * pixels);
    edges_.wide[chunk] ? add_to_sums(edges_.wide_rows(block), parts, count, sums)
                       : add_to_sums(edges_.short_rows(chunk, block), parts, count, sums);
  }

  // values = all chunks' sums, blurred.
  void blur(const float* sums, float* values, Parallel parallel) const {
    parallel(lattice_.chunks(),
             [&](int64_t chunk) { join_sums(chunk, sums + chunk_sum(chunk), values); });
    RowBlur<float, 1>::run(lattice_, values, 1, parallel);
  }

  // values = the weights of all pixels, blurred. Once only.
  void blur_ones(float* values, Parallel parallel) {
    parallel(lattice_.chunks(), [&](int64_t chunk) {
      join_sums(chunk, ones_[chunk].data(), values);
      ones_[chunk] = {};
    });
    RowBlur<float, 1>::run(lattice_, values, 1, parallel);
  }

  // The block's edges one by one: row * row_step, and the weight's integer.
  template <int kCorners, typename Take>
  void for_each_edges(int64_t chunk, int64_t block, uint32_t row_step, Take&& take) const {
    using U = Vec<uint32_t, kLanes>;
    using Short = Vec<uint16_t, kLanes>;
    const int64_t count = (kCorners > 0 ? kCorners : dims() + 1) * kLanes;
    const uint16_t* weights = edges_.weights.data() + block * count;
    const uint16_t* short_rows = edges_.short_rows(chunk, block);
    const uint32_t* rows = edges_.wide_rows(block);
    const bool wide = edges_.wide[chunk];
    wide ? fetch_ahead(weights, rows, count) : fetch_ahead(weights, short_rows, count);
    for (int64_t i = 0; i < count; i += kLanes) {
      const U row =
          wide ? load<U>(rows + i) : __builtin_convertvector(load<Short>(short_rows + i), U);
      take(i, row * row_step, unpack8(weights + i));
    }
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

  void join_sums(int64_t chunk, const float* sums, float* values) const {
    const int64_t first = lattice_.chunk_row(chunk), end = lattice_.chunk_row(chunk + 1);
    for (int64_t i = 0; i < end - first; ++i) values[first + i] = sums[2 * i] + sums[2 * i + 1];
  }

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

  // Packs the edges while the lattice is built, and splats a one for every pixel on the way.
  class Packing : public SimplexSink<float> {
   public:
    Packing(const PointOrder& order, int dims, PackedEdges* edges,
            std::vector<Growing<float>>* ones)
        : order_(order), edges_(*edges), ones_(*ones) {
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
    std::vector<Growing<float>>& ones_;
  };

  Lattice<float> lattice_;
  PackedEdges edges_;
  std::vector<Growing<float>> ones_;  // by chunk: (rows, 2), sums of the weights, until blur_ones
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
