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

// Who wants to know the points' simplices: they go by while the lattice is built.
template <typename Real>
class SimplexSink {
 public:
  virtual ~SimplexSink() = default;
  // The simplices of a block's points, (D + 1, 8) each: rows, counted from the chunk's first, and
  // weights of the vertices, the one of remainder k k-th, and ranks of the coordinates. Lanes past
  // the image repeat its last pixel with weight 0. row_count rows are in use so far.
  // The blocks of a chunk come in order, those of different chunks from different threads.
  virtual void take(int64_t chunk, const PointOrder::Block& block, int64_t row_count,
                    const int32_t* rows, const Real* weights, const int32_t* ranks) = 0;
};

template <typename Real>
class Lattice {
 public:
  // features (D, N). Refuses what is not finite and what would leave int32 lattice coordinates.
  Error build(const PointOrder& order, const Real* features, int dims, SimplexSink<Real>* sink,
              Parallel parallel);

  int dims() const { return dims_; }
  int64_t chunks() const { return static_cast<int64_t>(chunk_rows_.size()) - 1; }
  int64_t rows() const { return chunk_rows_.back(); }
  int64_t chunk_row(int64_t chunk) const { return chunk_rows_[chunk]; }
  int64_t vertex_count() const { return rows() - static_cast<int64_t>(duplicates_.size()); }

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
    Growing<uint8_t> heads;   // by position: 1 where a chain begins, and at the end; 8 to spare
  };
  const Axis& axis(int j) const { return axes_[j]; }

  // Where `task` out of `tasks` begins, if each takes about as many positions and whole chains.
  static int64_t cut(const Axis& axis, int64_t task, int64_t tasks) {
    const int32_t* starts = axis.starts.data();
    const int64_t position = static_cast<int64_t>(axis.rows.size()) * task / tasks;
    return *std::lower_bound(starts, starts + axis.starts.size() - 1, position);
  }

 private:
  Error measure(const PointOrder& order, const Real* features, Parallel parallel,
                std::vector<CellRange>* cells, std::vector<std::vector<CellRange>>* chunk_cells,
                double* largest) const;
  template <int kWords>
  Error build_with_keys(const PointOrder& order, const Real* features,
                        const KeyFields<kWords>& fields, const std::vector<CellRange>& cells,
                        const std::vector<std::vector<CellRange>>& chunk_cells, bool in_double,
                        SimplexSink<Real>* sink, Parallel parallel);
  template <typename Scalar, int kWords>
  void place_chunk(const PointOrder& order, const Real* features, int64_t chunk,
                   const KeyFields<kWords>& fields, const std::vector<CellRange>& cells,
                   SimplexSink<Real>* sink, Growing<Key<kWords>>* keys) const;
  template <int kWords>
  Error link(const KeyFields<kWords>& fields, const std::vector<CellRange>& cells,
             const std::vector<Growing<Key<kWords>>>& chunk_keys, Parallel parallel);
  void list_duplicates(const Buffer<int32_t>& primary, Buffer<int32_t>* primaries);

  int dims_ = 0;
  std::vector<int64_t> chunk_rows_{0};
  std::vector<Pair> duplicates_;
  std::vector<Axis> axes_;
};

extern template class Lattice<float>;
extern template class Lattice<double>;

}  // namespace FASTSEG_ISA
}  // namespace fastseg
