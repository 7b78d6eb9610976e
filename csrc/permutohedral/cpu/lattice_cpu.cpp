#include <cmath>
#include <limits>
#include <type_traits>

#include "../simplex_math.h"
#include "lattice.h"
#include "region_table.h"

namespace fastseg {
namespace FASTSEG_ISA {
namespace {

// Eight points on their way into the lattice.
template <typename Scalar>
struct PlacedBlock {
  alignas(64) Scalar feature[kMaxFeatureDims][kLanes];     // scaled
  alignas(64) Scalar weight[kMaxFeatureDims + 1][kLanes];  // of the vertex of remainder k
  alignas(64) int32_t cell[kMaxFeatureDims + 1][kLanes];   // of the vertex of remainder 0
  alignas(64) int32_t rank[kMaxFeatureDims + 1][kLanes];
  alignas(64) int32_t lowered[kMaxFeatureDims + 1][kLanes];  // coordinates one cell lower, as bits
};

template <typename Scalar, int kDims>
void place_block(PlacedBlock<Scalar>* block) {
  using Bits = typename std::conditional<sizeof(Scalar) == 8, int64_t, int32_t>::type;
  using V = Vec<Scalar, kLanes>;
  using I = Vec<Bits, kLanes>;
  using Narrow = Vec<int32_t, kLanes>;
  V feature[kDims], elevated[kDims + 1], weight[kDims + 1];
  I cell[kDims + 1], rank[kDims + 1];
  for (int d = 0; d < kDims; ++d) feature[d] = load<V>(block->feature[d]);
  elevate<Scalar, V, kDims>(feature, elevated);
  enclosing_simplex<Scalar, V, I, kDims>(
      elevated, cell, rank, weight, [](V v) { return round_even<kLanes>(v); },
      [](V v) { return __builtin_convertvector(v, I); },
      [](I v) { return __builtin_convertvector(v, V); });
  for (int k = 0; k <= kDims; ++k) {
    I lowered = {};
    for (int i = 0; i <= kDims; ++i) {
      lowered |= (rank[i] > static_cast<Bits>(kDims - k)) & (Bits{1} << i);
    }
    store(block->lowered[k], __builtin_convertvector(lowered, Narrow));
    store(block->rank[k], __builtin_convertvector(rank[k], Narrow));
    store(block->cell[k], __builtin_convertvector(cell[k], Narrow));
    store(block->weight[k], weight[k]);
  }
}

template <typename Scalar>
auto place_block_of_dims(int dims) {
  using Place = void (*)(PlacedBlock<Scalar>*);
  static constexpr Place kPlace[kMaxFeatureDims] = {
      place_block<Scalar, 1>,  place_block<Scalar, 2>,  place_block<Scalar, 3>,
      place_block<Scalar, 4>,  place_block<Scalar, 5>,  place_block<Scalar, 6>,
      place_block<Scalar, 7>,  place_block<Scalar, 8>,  place_block<Scalar, 9>,
      place_block<Scalar, 10>, place_block<Scalar, 11>, place_block<Scalar, 12>,
      place_block<Scalar, 13>, place_block<Scalar, 14>, place_block<Scalar, 15>,
      place_block<Scalar, 16>};
  return kPlace[dims - 1];
}

// Bounds of the cell coordinates (D + 1) from those of the features; returns the largest elevated
// value.
double cell_ranges(const std::vector<CellRange>& feature, std::vector<CellRange>* cells) {
  const int dims = static_cast<int>(feature.size());
  cells->resize(dims + 1);
  double largest = 0;
  CellRange sum = {0, 0};
  for (int j = dims; j >= 0; --j) {
    CellRange elevated = sum;
    if (j > 0) {
      const double scale = feature_scale(j - 1, dims);
      const double low = feature[j - 1].low * scale, high = feature[j - 1].high * scale;
      elevated.low -= j * high;
      elevated.high -= j * low;
      sum.low += low;
      sum.high += high;
    }
    largest = std::max({largest, -elevated.low, elevated.high});
    // One step of rounding, one of correction, one down inside the simplex, one to a neighbour.
    (*cells)[j] = {std::floor(elevated.low / (dims + 1)) - 4,
                   std::ceil(elevated.high / (dims + 1)) + 4};
  }
  return largest;
}

// The rows of one chunk's vertices, numbered as they are first touched, simplex by simplex.
//
// A vertex of a point's simplex is the remainder-0 vertex (the base) with some coordinates one
// cell lower. Up to five dimensions that set of coordinates indexes a table, and there are three
// ways to a row, each for its own density of points:
//  - where the cells of the chunk are few, they are an array of rows;
//  - where several points share a base, it has a table of rows, one for each set;
//  - else each vertex is looked up by itself.
template <typename Scalar, int kWords>
class ChunkRows {
 public:
  ChunkRows(const KeyFields<kWords>& fields, const std::vector<CellRange>& cells, int dims,
            int64_t points, Growing<Key<kWords>>* keys)
      : fields_(fields), dims_(dims), keys_(keys) {
    if (dims > kTabulatedDims) return;
    way_ = kByBase;
    for (int set = 0; set < 1 << (dims + 1); ++set) {
      lowered_[set] = {};
      for (int i = 0; i <= dims; ++i) {
        if (set >> i & 1) lowered_[set] = lowered_[set] + fields.step(i);
      }
    }
    lay_out_cells(cells, points);
  }

  // rows (D + 1, 8) of the block's simplices.
  void find(const PlacedBlock<Scalar>& placed, int32_t* rows) {
    if (way_ == kByCell) return find_by_cell(placed, rows);
    Base bases[kLanes];
    pack_bases(placed, bases);
    if (way_ == kByBase) return find_by_base(placed, bases, rows);
    find_singly(placed, bases, rows);
  }

 private:
  static constexpr int kTabulatedDims = 5;
  enum Way { kByCell, kByBase, kSingly };
  using Base = Key<kWords>;

  // Index of a cell: its coordinates, but the one that is widest, and the remainder.
  void lay_out_cells(const std::vector<CellRange>& cells, int64_t points) {
    int widest = 0;
    for (int i = 1; i <= dims_; ++i) {
      if (cells[i].extent() > cells[widest].extent()) widest = i;
    }
    double size = 1;
    for (int i = 0; i <= dims_; ++i) {
      cell_stride_[i] = i == widest ? 0 : static_cast<int32_t>(size);
      cell_low_[i] = static_cast<int32_t>(cells[i].low);
      if (i != widest) size *= static_cast<double>(cells[i].extent());
      if (size * (dims_ + 1) > 2.0 * static_cast<double>(points)) return;
    }
    for (int set = 0; set < 1 << (dims_ + 1); ++set) {
      int32_t offset = 0;
      for (int i = 0; i <= dims_; ++i) {
        if (set >> i & 1) offset += static_cast<int32_t>(size) - cell_stride_[i];
      }
      cell_offset_[set] = offset;
    }
    way_ = kByCell;
    row_of_.extend(static_cast<size_t>(size) * (dims_ + 1), 0xff);
  }

  void find_by_cell(const PlacedBlock<Scalar>& placed, int32_t* rows) {
    using I = Vec<int32_t, kLanes>;
    I index = {};
    for (int i = 0; i <= dims_; ++i) {
      index += (load<I>(placed.cell[i]) - cell_low_[i]) * cell_stride_[i];
    }
    alignas(32) int32_t base[kLanes];
    store(base, index);
    int32_t missing = 0;
    for (int k = 0; k <= dims_; ++k) {
      for (int p = 0; p < kLanes; ++p) {
        const int32_t row = row_of_[base[p] + cell_offset_[placed.lowered[k][p]]];
        rows[k * kLanes + p] = row;
        missing |= row;
      }
    }
    if (missing >= 0) return;
    Base bases[kLanes];
    pack_bases(placed, bases);
    for (int p = 0; p < kLanes; ++p) {
      for (int k = 0; k <= dims_; ++k) {
        if (rows[k * kLanes + p] >= 0) continue;
        int32_t& row = row_of_[base[p] + cell_offset_[placed.lowered[k][p]]];
        if (row < 0) row = append(bases[p] + lowered_[placed.lowered[k][p]]);
        rows[k * kLanes + p] = row;
      }
    }
  }

  void pack_bases(const PlacedBlock<Scalar>& placed, Base* bases) const {
    using U = Vec<uint64_t, kLanes>;
    for (int w = 0; w < kWords; ++w) {
      U packed = {};
      for (int i = 0; i < dims_; ++i) {
        if (kWords > 1 && fields_.word[i] != w) continue;
        const auto cell = load<Vec<int32_t, kLanes>>(placed.cell[i]);
        const auto wide = __builtin_convertvector(cell, Vec<int64_t, kLanes>);
        packed += (U)(wide - fields_.low[i]) << fields_.shift[i];
      }
      for (int p = 0; p < kLanes; ++p) bases[p].word[w] = packed[p];
    }
  }

  void find_by_base(const PlacedBlock<Scalar>& placed, const Base* bases, int32_t* rows) {
    uint64_t hash[kLanes];
    for (int p = 0; p < kLanes; ++p) {
      hash[p] = bases[p].hash();
      base_table_.prefetch(hash[p]);
    }
    size_t first[kLanes];
    for (int p = 0; p < kLanes; ++p) {
      if (base_count_ == 0 || !(bases[p] == last_base_)) {
        last_base_ = bases[p];
        last_table_ = base_table_.find_or_insert(bases[p], hash[p], base_count_);
        if (last_table_ == base_count_) {
          ++base_count_;
          row_of_.extend(size_t{1} << (dims_ + 1), 0xff);
        }
      }
      first[p] = static_cast<size_t>(last_table_) << (dims_ + 1);
    }
    int32_t missing = 0;
    for (int k = 0; k <= dims_; ++k) {
      for (int p = 0; p < kLanes; ++p) {
        const int32_t row = row_of_[first[p] + placed.lowered[k][p]];
        rows[k * kLanes + p] = row;
        missing |= row;
      }
    }
    if (missing < 0) {
      for (int p = 0; p < kLanes; ++p) {
        for (int k = 0; k <= dims_; ++k) {
          if (rows[k * kLanes + p] >= 0) continue;
          int32_t& row = row_of_[first[p] + placed.lowered[k][p]];
          if (row < 0) row = look_up(bases[p] + lowered_[placed.lowered[k][p]]);
          rows[k * kLanes + p] = row;
        }
      }
    }
    points_placed_ += kLanes;
    if (base_count_ > 1024 && base_count_ * kFewestSharing > points_placed_) way_ = kSingly;
  }

  void find_singly(const PlacedBlock<Scalar>& placed, const Base* bases, int32_t* rows) {
    Key<kWords> simplex[kLanes][kMaxFeatureDims + 1];
    uint64_t hash[kLanes][kMaxFeatureDims + 1];
    for (int p = 0; p < kLanes; ++p) {
      simplex[p][0] = bases[p];
      for (int k = 1; k <= dims_; ++k) {
        const int lowered = placed.lowered[k][p] ^ placed.lowered[k - 1][p];
        simplex[p][k] = simplex[p][k - 1] + fields_.step(__builtin_ctz(lowered));
      }
      for (int k = 0; k <= dims_; ++k) {
        hash[p][k] = simplex[p][k].hash();
        table_.prefetch(hash[p][k]);
      }
    }
    for (int p = 0; p < kLanes; ++p) {
      for (int k = 0; k <= dims_; ++k) rows[k * kLanes + p] = look_up(simplex[p][k], hash[p][k]);
    }
  }

  int32_t append(const Key<kWords>& key) {
    keys_->push_back(key);
    return static_cast<int32_t>(keys_->size()) - 1;
  }
  int32_t look_up(const Key<kWords>& key) { return look_up(key, key.hash()); }
  int32_t look_up(const Key<kWords>& key, uint64_t hash) {
    const int32_t fresh = static_cast<int32_t>(keys_->size());
    const int32_t row = table_.find_or_insert(key, hash, fresh);
    if (row == fresh) keys_->push_back(key);
    return row;
  }

  static constexpr int64_t kFewestSharing = 6;  // points to a base, on average

  const KeyFields<kWords>& fields_;
  const int dims_;
  Growing<Key<kWords>>* const keys_;
  Way way_ = kSingly;
  Key<kWords> lowered_[2 << kTabulatedDims];  // by set: what it adds to the base's key
  Growing<int32_t> row_of_;                   // (D + 1, cells) or (bases, 2^(D + 1)): row, or -1
  int32_t cell_low_[kTabulatedDims + 1], cell_stride_[kTabulatedDims + 1];
  int32_t cell_offset_[2 << kTabulatedDims];  // by set: from the base's cell to the vertex's
  VertexTable<kWords> base_table_, table_;
  Base last_base_ = {};
  int32_t last_table_ = -1, base_count_ = 0;
  int64_t points_placed_ = 0;
};

}  // namespace
template <typename Real>
Error Lattice<Real>::build(const PointOrder& order, const Real* features, int dims,
                           SimplexSink<Real>* sink, Parallel parallel) {
  dims_ = dims;
  std::vector<CellRange> cells;
  std::vector<std::vector<CellRange>> chunk_cells;
  double largest = 0;
  if (Error error = measure(order, features, parallel, &cells, &chunk_cells, &largest)) {
    return error;
  }
  // Beyond 2^20 a float has too few bits left for the barycentric weights (and for round_even).
  const bool in_double = largest > 1048576.0;
  const auto with = [&](auto fields) {
    return build_with_keys(order, features, fields, cells, chunk_cells, in_double, sink, parallel);
  };
  if (KeyFields<1> fields; fields.lay_out(cells, dims)) return with(fields);
  if (KeyFields<2> fields; fields.lay_out(cells, dims)) return with(fields);
  KeyFields<kMaxFeatureDims / 2 + 1> fields;
  fields.lay_out(cells, dims);
  return with(fields);
}

// Bounds of the cell coordinates from the bounds of the features, of the image and of each chunk,
// and the largest elevated value.
template <typename Real>
Error Lattice<Real>::measure(const PointOrder& order, const Real* features, Parallel parallel,
                             std::vector<CellRange>* cells,
                             std::vector<std::vector<CellRange>>* chunk_cells,
                             double* largest) const {
  using V = Vec<Real, kLanes>;
  struct Range {
    Real low, high, bad;  // bad: zero where all are finite, and else NaN
  };
  const int64_t points = order.points(), chunks = order.chunks();
  std::vector<Range> ranges(chunks * dims_);
  parallel(chunks, [&](int64_t chunk) {
    V low[kMaxFeatureDims], high[kMaxFeatureDims], bad[kMaxFeatureDims];
    bool begun = false;
    order.for_each_block(chunk, [&](const PointOrder::Block& block) {
      for (int d = 0; d < dims_; ++d) {
        const Real* row = features + d * points + block.point;
        __builtin_prefetch(row + 2 * kLanes);
        const V x = load_first(row, block.count);
        low[d] = begun ? vector_min(x, low[d]) : x;
        high[d] = begun ? vector_max(x, high[d]) : x;
        bad[d] = begun ? bad[d] + (x - x) : x - x;
      }
      begun = true;
    });
    for (int d = 0; d < dims_; ++d) {
      Range range = {low[d][0], high[d][0], 0};
      for (int p = 0; p < kLanes; ++p) {
        range = {std::min(range.low, low[d][p]), std::max(range.high, high[d][p]),
                 range.bad + bad[d][p]};
      }
      ranges[chunk * dims_ + d] = range;
    }
  });

  std::vector<CellRange> feature(dims_);
  for (int d = 0; d < dims_; ++d) {
    Range all = ranges[d];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const Range& range = ranges[chunk * dims_ + d];
      if (!(range.bad == 0)) {
        return value_error("features must be finite, got NaN or infinity in feature ", d);
      }
      all = {std::min(all.low, range.low), std::max(all.high, range.high), 0};
    }
    feature[d] = {static_cast<double>(all.low), static_cast<double>(all.high)};
  }
  *largest = cell_ranges(feature, cells);
  if (!(*largest < 2147480000.0)) {
    return value_error(
        "features must stay within int32 lattice coordinates (about 2e9 / (D + 1) standard "
        "deviations), got a coordinate of ",
        *largest, "; a larger standard deviation (sigma) makes them smaller");
  }
  chunk_cells->resize(chunks);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int d = 0; d < dims_; ++d) {
      const Range& range = ranges[chunk * dims_ + d];
      feature[d] = {static_cast<double>(range.low), static_cast<double>(range.high)};
    }
    cell_ranges(feature, &(*chunk_cells)[chunk]);
  }
  return {};
}

template <typename Real>
template <int kWords>
Error Lattice<Real>::build_with_keys(const PointOrder& order, const Real* features,
                                     const KeyFields<kWords>& fields,
                                     const std::vector<CellRange>& cells,
                                     const std::vector<std::vector<CellRange>>& chunk_cells,
                                     bool in_double, SimplexSink<Real>* sink, Parallel parallel) {
  std::vector<Growing<Key<kWords>>> keys(order.chunks());
  parallel(order.chunks(), [&](int64_t chunk) {
    if (in_double || sizeof(Real) == sizeof(double)) {
      place_chunk<double>(order, features, chunk, fields, chunk_cells[chunk], sink, &keys[chunk]);
    } else {
      place_chunk<Real>(order, features, chunk, fields, chunk_cells[chunk], sink, &keys[chunk]);
    }
  });
  return link(fields, cells, keys, parallel);
}

// Places the chunk's points eight at a time.
template <typename Real>
template <typename Scalar, int kWords>
void Lattice<Real>::place_chunk(const PointOrder& order, const Real* features, int64_t chunk,
                                const KeyFields<kWords>& fields,
                                const std::vector<CellRange>& cells, SimplexSink<Real>* sink,
                                Growing<Key<kWords>>* keys) const {
  const int dims = dims_;
  const auto place = place_block_of_dims<Scalar>(dims);
  ChunkRows<Scalar, kWords> chunk_rows(fields, cells, dims, order.chunk_points(chunk), keys);
  Scalar scale[kMaxFeatureDims];
  for (int d = 0; d < dims; ++d) scale[d] = static_cast<Scalar>(feature_scale(d, dims));
  PlacedBlock<Scalar> placed;
  alignas(64) Real weights[(kMaxFeatureDims + 1) * kLanes];
  alignas(64) int32_t rows[(kMaxFeatureDims + 1) * kLanes];
  order.for_each_block(chunk, [&](const PointOrder::Block& block) {
    for (int d = 0; d < dims; ++d) {
      const Real* row = features + d * order.points() + block.point;
      __builtin_prefetch(row + 2 * kLanes);  // the next column of this line of the strip
      const auto value = __builtin_convertvector(load_first(row, block.count), Vec<Scalar, kLanes>);
      store(placed.feature[d], value * scale[d]);
    }
    place(&placed);
    for (int k = 0; k <= dims; ++k) {
      const auto weight = load<Vec<Scalar, kLanes>>(placed.weight[k]);
      store(weights + k * kLanes, __builtin_convertvector(weight, Vec<Real, kLanes>));
      for (int p = block.count; p < kLanes; ++p) weights[k * kLanes + p] = 0;
    }
    chunk_rows.find(placed, rows);
    sink->take(chunk, block, static_cast<int64_t>(keys->size()), rows, weights, placed.rank[0]);
  });
}

// Finds the vertices that chunks share and the chains along each axis.
template <typename Real>
template <int kWords>
Error Lattice<Real>::link(const KeyFields<kWords>& fields, const std::vector<CellRange>& cells,
                          const std::vector<Growing<Key<kWords>>>& chunk_keys, Parallel parallel) {
  const int64_t chunks = static_cast<int64_t>(chunk_keys.size());
  chunk_rows_.assign(1, 0);
  for (const auto& keys : chunk_keys) {
    chunk_rows_.push_back(chunk_rows_.back() + static_cast<int64_t>(keys.size()));
  }
  const int64_t row_count = rows();
  if (row_count > std::numeric_limits<int32_t>::max()) {
    return value_error("features must touch fewer than 2^31 lattice vertices, got ", row_count);
  }

  RegionTable<kWords> table(fields, cells, dims_, row_count);
  const int64_t regions = table.regions();
  Buffer<uint16_t> region_of(row_count);
  std::vector<std::vector<int64_t>> counts(chunks);
  parallel(chunks, [&](int64_t chunk) {
    const auto& keys = chunk_keys[chunk];
    counts[chunk].resize(regions);
    for (size_t i = 0; i < keys.size(); ++i) {
      const int64_t region = table.region(keys[i]);
      region_of[chunk_rows_[chunk] + i] = static_cast<uint16_t>(region);
      ++counts[chunk][region];
    }
  });
  std::vector<int64_t> totals(regions);
  for (const auto& count : counts) {
    for (int64_t r = 0; r < regions; ++r) totals[r] += count[r];
  }
  table.reserve(totals);

  // Tasks are consecutive regions of about equally many keys.
  const int64_t tasks = std::clamp<int64_t>(row_count / 4096, 1, 32);
  std::vector<int64_t> first_region(1, 0);
  int64_t sum = 0;
  for (int64_t r = 0; r < regions; ++r) {
    sum += totals[r];
    const int64_t task = static_cast<int64_t>(first_region.size());
    if (task < tasks && sum >= row_count * task / tasks) first_region.push_back(r + 1);
  }
  first_region.push_back(regions);
  Buffer<int32_t> primary(row_count);
  parallel(static_cast<int64_t>(first_region.size()) - 1, [&](int64_t task) {
    const int64_t begin = first_region[task], end = first_region[task + 1];
    table.clear(begin, end);
    for (int64_t c = 0; c < chunks; ++c) {
      int64_t left = 0;
      for (int64_t r = begin; r < end; ++r) left += counts[c][r];
      for (int64_t row = chunk_rows_[c]; left > 0; ++row) {
        const int64_t region = region_of[row];
        if (region < begin || region >= end) continue;
        --left;
        const auto& key = chunk_keys[c][row - chunk_rows_[c]];
        primary[row] = table.find_or_insert(key, key.hash(), region, static_cast<int32_t>(row));
      }
    }
  });
  Buffer<int32_t> primaries;
  list_duplicates(primary, &primaries);

  axes_ = std::vector<Axis>(dims_ + 1);
  parallel(dims_ + 1, [&](int64_t j) {
    const int64_t vertices = vertex_count();
    Buffer<int32_t> next(row_count);
    Buffer<char> has_previous(row_count);
    std::memset(has_previous.data(), 0, row_count);
    constexpr int64_t kAhead = 16;
    Key<kWords> key[kAhead];
    uint64_t hash[kAhead];
    int64_t region[kAhead];
    int64_t chunk = 0;
    for (int64_t i = 0; i < vertices + kAhead; ++i) {
      const int64_t slot = i % kAhead;
      if (i >= kAhead) {
        const int32_t found = table.find(key[slot], hash[slot], region[slot]);
        next[primaries[i - kAhead]] = found;
        if (found >= 0) has_previous[found] = 1;
      }
      if (i < vertices) {
        const int64_t row = primaries[i];
        while (row >= chunk_rows_[chunk + 1]) ++chunk;
        const auto& own = chunk_keys[chunk][row - chunk_rows_[chunk]];
        key[slot] = fields.next(own, static_cast<int>(j), dims_);
        hash[slot] = key[slot].hash();
        region[slot] = table.region(key[slot]);
        table.prefetch(hash[slot], region[slot]);
      }
    }
    Axis& axis = axes_[j];
    for (int64_t i = 0; i < vertices; ++i) {
      int32_t row = primaries[i];
      if (has_previous[row] || next[row] < 0) continue;
      axis.starts.push_back(static_cast<int32_t>(axis.rows.size()));
      for (; row >= 0; row = next[row]) axis.rows.push_back(row);
      axis.heads.extend(axis.rows.size() - axis.heads.size(), 0);
      axis.heads[axis.starts[axis.starts.size() - 1]] = 1;
    }
    axis.starts.push_back(static_cast<int32_t>(axis.rows.size()));
    axis.heads.extend(1 + kLanes, 1);
  });
  return {};
}

// Primary rows in order; duplicates by primary row, and in the order of the chunks under each (a
// counting sort).
template <typename Real>
void Lattice<Real>::list_duplicates(const Buffer<int32_t>& primary, Buffer<int32_t>* primaries) {
  const int64_t row_count = rows();
  primaries->reset(row_count);
  Buffer<int32_t> place(row_count + 1);
  std::memset(place.data(), 0, (row_count + 1) * sizeof(int32_t));
  int64_t vertices = 0;
  for (int64_t row = 0; row < row_count; ++row) {
    if (primary[row] == row) {
      (*primaries)[vertices++] = static_cast<int32_t>(row);
    } else {
      ++place[primary[row] + 1];
    }
  }
  for (int64_t row = 0; row < row_count; ++row) place[row + 1] += place[row];
  duplicates_.resize(row_count - vertices);
  for (int64_t row = 0; row < row_count; ++row) {
    if (primary[row] != row) {
      duplicates_[place[primary[row]]++] = {static_cast<int32_t>(row), primary[row]};
    }
  }
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace FASTSEG_ISA
}  // namespace fastseg
