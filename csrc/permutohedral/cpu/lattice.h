#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../common/buffer.h"
#include "../../common/check.h"
#include "../../common/parallel.h"
#include "../../common/simd.h"
#include "../permutohedral.h"
#include "point_order.h"
#include "vertex_table.h"

// The permutohedral lattice of one image, laid out for filtering: every chunk of pixels has rows
// of its own for the vertices that it touches, so that chunks splat without sharing; a vertex
// that several chunks touch has a primary row in the first of them and duplicates in the others.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename Real>
class Lattice {
 public:
  // features (D, N). Refuses what is not finite and what would leave int32 lattice coordinates.
  Error build(const PointOrder& order, const Real* features, int dims, Parallel parallel);

  int dims() const { return dims_; }
  int64_t rows() const { return chunk_rows_.back(); }
  int64_t chunk_row(int64_t chunk) const { return chunk_rows_[chunk]; }
  int64_t vertex_count() const { return rows() - static_cast<int64_t>(duplicates_.size()); }

  // Of the block's simplices, (D + 1, 8): rows, counted from the chunk's first, and weights. The
  // vertex of remainder k comes k-th. Lanes past the image repeat its last pixel with weight 0.
  const int32_t* block_rows(int64_t block) const { return rows_.data() + block * stride(); }
  const Real* block_weights(int64_t block) const { return weights_.data() + block * stride(); }
  int64_t stride() const { return (dims_ + 1) * kLanes; }
  // Frees what block_rows and block_weights point to; rows and axes stay.
  void release_blocks() {
    rows_ = Buffer<int32_t>();
    weights_ = Buffer<Real>();
  }

  // Rank of each coordinate of the block's points, (D + 1, 8), where build() was told to keep it.
  void keep_ranks() { keep_ranks_ = true; }
  const int8_t* block_ranks(int64_t block) const { return ranks_.data() + block * stride(); }

  // (duplicate row, primary row), sorted by primary row, then by duplicate row.
  struct Pair {
    int32_t duplicate, primary;
  };
  const std::vector<Pair>& duplicates() const { return duplicates_; }

  // Along an axis the vertices form chains; a chain's rows follow one another in `rows`. A vertex
  // without neighbours is in no chain.
  struct Axis {
    Growing<int32_t> rows;
    Growing<int32_t> starts;  // first position of each chain, and the end
  };
  const Axis& axis(int j) const { return axes_[j]; }

  // The axis's chains in groups of about equal length: those of `task` out of `tasks`.
  static std::pair<int64_t, int64_t> chain_range(const Axis& axis, int64_t task, int64_t tasks) {
    const int32_t* starts = axis.starts.data();
    const int64_t chains = static_cast<int64_t>(axis.starts.size()) - 1;
    const auto chain_at = [&](int64_t t) {
      const int64_t position = static_cast<int64_t>(axis.rows.size()) * t / tasks;
      return std::lower_bound(starts, starts + chains, position) - starts;
    };
    return {chain_at(task), chain_at(task + 1)};
  }

 private:
  // Where the fields of a key lie, and what moves along the lattice add to it.
  template <int kWords>
  struct Fields {
    int word[kMaxFeatureDims];
    int shift[kMaxFeatureDims];
    int64_t low[kMaxFeatureDims];  // cell coordinate that is stored as zero
    int remainder_word, remainder_shift;
    Key<kWords> one[kMaxFeatureDims + 1];  // one cell along a coordinate; the last is implied
    Key<kWords> all;                       // sum of `one`
    Key<kWords> remainder_one;

    // The key's remainder, 0 to D.
    int remainder(const Key<kWords>& key) const {
      return static_cast<int>(key.word[remainder_word] >> remainder_shift) & 31;
    }
    Key<kWords> scaled_remainder(int r) const {
      Key<kWords> key = {};
      key.word[remainder_word] = static_cast<uint64_t>(r) << remainder_shift;
      return key;
    }
    // The next vertex along axis j: all coordinates one lower, but coordinate j higher by D.
    Key<kWords> next(const Key<kWords>& key, int j, int dims) const {
      if (remainder(key) > 0) return key - remainder_one + one[j];
      return key + scaled_remainder(dims) - (all - one[j]);
    }
  };

  template <int kWords>
  struct ChunkVertices {
    VertexTable<kWords> table;
    Growing<Key<kWords>> keys;  // in order of first touch
  };

  struct Range {
    double low, high;
  };

  Error measure(const PointOrder& order, const Real* features, Parallel parallel,
                std::vector<Range>* cells, double* largest) const;
  template <int kWords>
  static bool lay_out(const std::vector<Range>& cells, int dims, Fields<kWords>* fields);
  template <int kWords>
  Error build_with_keys(const PointOrder& order, const Real* features, Parallel parallel,
                        const Fields<kWords>& fields, bool in_double);
  template <typename Scalar, int kWords>
  void place_chunk(const PointOrder& order, const Real* features, int64_t chunk,
                   const Fields<kWords>& fields, ChunkVertices<kWords>* vertices);
  template <int kWords>
  Error link(const Fields<kWords>& fields, std::vector<ChunkVertices<kWords>>* chunks,
             Parallel parallel);

  int dims_ = 0;
  bool keep_ranks_ = false;
  Buffer<int32_t> rows_;
  Buffer<Real> weights_;
  Buffer<int8_t> ranks_;
  std::vector<int64_t> chunk_rows_{0};
  std::vector<Pair> duplicates_;
  std::vector<Axis> axes_;
};

extern template class Lattice<float>;
extern template class Lattice<double>;

}  // namespace FASTSEG_ISA
}  // namespace fastseg
