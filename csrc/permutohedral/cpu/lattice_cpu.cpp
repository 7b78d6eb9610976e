#include "lattice.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "../simplex_math.h"

namespace fastseg {
namespace FASTSEG_ISA {
namespace {

// Eight points on their way into the lattice.
template <typename Scalar>
struct PlacedBlock {
  alignas(64) Scalar feature[kMaxFeatureDims][kLanes];      // scaled
  alignas(64) Scalar weight[kMaxFeatureDims + 1][kLanes];   // of the vertex of remainder k
  alignas(64) int32_t cell[kMaxFeatureDims + 1][kLanes];    // of the vertex of remainder 0
  alignas(64) int32_t rank[kMaxFeatureDims + 1][kLanes];
  alignas(64) int32_t lowered[kMaxFeatureDims + 1][kLanes]; // coordinates one cell lower, as bits
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

}  // namespace

template <typename Real>
Error Lattice<Real>::build(const PointOrder& order, const Real* features, int dims,
                           Parallel parallel) {
  dims_ = dims;
  std::vector<Range> cells;
  double largest = 0;
  if (Error error = measure(order, features, parallel, &cells, &largest)) return error;
  const size_t size = static_cast<size_t>(order.blocks()) * stride();
  rows_.reset(size);
  weights_.reset(size);
  if (keep_ranks_) ranks_.reset(size);
  // Beyond 2^20 a float has too few bits left for the barycentric weights (and for round_even).
  const bool in_double = largest > 1048576.0;
  if (Fields<1> fields; lay_out(cells, dims, &fields)) {
    return build_with_keys(order, features, parallel, fields, in_double);
  }
  if (Fields<2> fields; lay_out(cells, dims, &fields)) {
    return build_with_keys(order, features, parallel, fields, in_double);
  }
  Fields<kMaxFeatureDims / 2 + 1> fields;
  lay_out(cells, dims, &fields);
  return build_with_keys(order, features, parallel, fields, in_double);
}

// Bounds of the cell coordinates from the bounds of the features, and the largest elevated value.
template <typename Real>
Error Lattice<Real>::measure(const PointOrder& order, const Real* features, Parallel parallel,
                             std::vector<Range>* cells, double* largest) const {
  using V = Vec<Real, kLanes>;
  const int64_t points = order.points();
  const int64_t tasks = order.chunks();
  std::vector<Range> ranges(dims_ * tasks);
  std::vector<char> finite(dims_ * tasks, 1);
  parallel(tasks, [&](int64_t task) {
    const int64_t begin = points * task / tasks, end = points * (task + 1) / tasks;
    for (int d = 0; d < dims_; ++d) {
      const Real* row = features + d * points;
      V low = broadcast<V>(row[begin]), high = low, not_finite = {};
      int64_t i = begin;
      for (; i + kLanes <= end; i += kLanes) {
        const V x = load<V>(row + i);
        low = vector_min(x, low);
        high = vector_max(x, high);
        not_finite += x - x;
      }
      Real lowest = low[0], highest = high[0], bad = 0;
      for (int p = 0; p < kLanes; ++p) {
        lowest = std::min(lowest, low[p]);
        highest = std::max(highest, high[p]);
        bad += not_finite[p];
      }
      for (; i < end; ++i) {
        lowest = std::min(lowest, row[i]);
        highest = std::max(highest, row[i]);
        bad += row[i] - row[i];
      }
      ranges[task * dims_ + d] = {static_cast<double>(lowest), static_cast<double>(highest)};
      finite[task * dims_ + d] = bad == 0;
    }
  });

  std::vector<Range> feature(dims_);
  for (int d = 0; d < dims_; ++d) {
    feature[d] = ranges[d];
    for (int64_t task = 0; task < tasks; ++task) {
      if (!finite[task * dims_ + d]) {
        return value_error("features must be finite, got NaN or infinity in feature ", d);
      }
      feature[d].low = std::min(feature[d].low, ranges[task * dims_ + d].low);
      feature[d].high = std::max(feature[d].high, ranges[task * dims_ + d].high);
    }
    const double scale = feature_scale(d, dims_);
    feature[d] = {feature[d].low * scale, feature[d].high * scale};
  }
  cells->resize(dims_ + 1);
  *largest = 0;
  Range sum = {0, 0};
  for (int j = dims_; j >= 0; --j) {
    Range elevated = sum;
    if (j > 0) {
      elevated.low -= j * feature[j - 1].high;
      elevated.high -= j * feature[j - 1].low;
      sum.low += feature[j - 1].low;
      sum.high += feature[j - 1].high;
    }
    *largest = std::max({*largest, -elevated.low, elevated.high});
    // One step of rounding, one of correction, one down inside the simplex, one to a neighbour.
    (*cells)[j] = {std::floor(elevated.low / (dims_ + 1)) - 4,
                   std::ceil(elevated.high / (dims_ + 1)) + 4};
  }
  if (!(*largest < 2147480000.0)) {
    return value_error(
        "features must stay within int32 lattice coordinates (about 2e9 / (D + 1) standard "
        "deviations), got a coordinate of ", *largest,
        "; a larger standard deviation (sigma) makes them smaller");
  }
  return {};
}

template <typename Real>
template <int kWords>
bool Lattice<Real>::lay_out(const std::vector<Range>& cells, int dims, Fields<kWords>* fields) {
  *fields = {};
  int word = 0, used = 0;
  const auto place = [&](int bits) {
    if (used + bits > 64) {
      ++word;
      used = 0;
    }
    used += bits;
    return word < kWords;
  };
  for (int i = 0; i < dims; ++i) {
    int bits = 1;
    while (cells[i].high - cells[i].low >= std::ldexp(1.0, bits)) ++bits;
    if (!place(bits)) return false;
    fields->word[i] = word;
    fields->shift[i] = used - bits;
    fields->low[i] = static_cast<int64_t>(cells[i].low);
    fields->one[i].word[word] = uint64_t{1} << (used - bits);
    fields->all = fields->all + fields->one[i];
  }
  if (!place(5)) return false;
  fields->remainder_word = word;
  fields->remainder_shift = used - 5;
  fields->remainder_one = fields->scaled_remainder(1);
  return true;
}

template <typename Real>
template <int kWords>
Error Lattice<Real>::build_with_keys(const PointOrder& order, const Real* features,
                                     Parallel parallel, const Fields<kWords>& fields,
                                     bool in_double) {
  std::vector<ChunkVertices<kWords>> chunks(order.chunks());
  parallel(order.chunks(), [&](int64_t chunk) {
    if (in_double || sizeof(Real) == sizeof(double)) {
      place_chunk<double>(order, features, chunk, fields, &chunks[chunk]);
    } else {
      place_chunk<Real>(order, features, chunk, fields, &chunks[chunk]);
    }
    chunks[chunk].table.free();
  });
  return link(fields, &chunks, parallel);
}

// Places the chunk's points eight at a time. Up to five dimensions, points that share their
// remainder-0 vertex share a table from "coordinates that are one cell lower" to the row of that
// vertex, so that most vertices are found without hashing; where too few points share one to pay
// for the tables, every vertex is looked up by itself.
template <typename Real>
template <typename Scalar, int kWords>
void Lattice<Real>::place_chunk(const PointOrder& order, const Real* features, int64_t chunk,
                                const Fields<kWords>& fields, ChunkVertices<kWords>* vertices) {
  const int dims = dims_, corners = dims + 1;
  bool tabulated = dims <= 5;
  const int subset_bits = corners;
  const auto place = place_block_of_dims<Scalar>(dims);
  Growing<Key<kWords>>& keys = vertices->keys;
  VertexTable<kWords> bases;
  Growing<int32_t> subsets;  // (bases, 2^(D + 1)): row, or -1
  Scalar scale[kMaxFeatureDims];
  for (int d = 0; d < dims; ++d) scale[d] = static_cast<Scalar>(feature_scale(d, dims));
  // From a vertex of the simplex to the next: coordinate i one cell lower, the remainder one up.
  Key<kWords> step[kMaxFeatureDims + 1];
  for (int i = 0; i < corners; ++i) step[i] = fields.remainder_one - fields.one[i];

  // keys (D + 1) of a point's simplex, from its remainder-0 vertex.
  const auto simplex_keys = [&](const Key<kWords>& base, const PlacedBlock<Scalar>& placed, int p,
                                Key<kWords>* keys) {
    keys[0] = base;
    for (int k = 1; k < corners; ++k) {
      const int lowered = placed.lowered[k][p] ^ placed.lowered[k - 1][p];
      keys[k] = keys[k - 1] + step[__builtin_ctz(lowered)];
    }
  };
  const auto vertex_row = [&](const Key<kWords>& key, uint64_t hash) {
    const int32_t fresh = static_cast<int32_t>(keys.size());
    const int32_t row = vertices->table.find_or_insert(key, hash, fresh);
    if (row == fresh) keys.push_back(key);
    return row;
  };

  PlacedBlock<Scalar> placed;
  Key<kWords> last_base = {};
  int32_t last_table = -1, base_count = 0;
  constexpr int64_t kFewestSharing = 6;  // points to a table, on average
  int64_t points_placed = 0;
  order.for_each_block(chunk, [&](const PointOrder::Block& block) {
    for (int d = 0; d < dims; ++d) {
      const Real* row = features + d * order.points() + block.point;
      __builtin_prefetch(row + 2 * kLanes);  // the next column of this line of the strip
      if (block.count == kLanes) {
        const auto value = load<Vec<Real, kLanes>>(row);
        store(placed.feature[d],
              __builtin_convertvector(value, Vec<Scalar, kLanes>) * scale[d]);
      } else {
        for (int p = 0; p < kLanes; ++p) {
          placed.feature[d][p] = static_cast<Scalar>(row[std::min(p, block.count - 1)]) * scale[d];
        }
      }
    }
    place(&placed);

    Real* weights = weights_.data() + block.index * stride();
    int32_t* rows = rows_.data() + block.index * stride();
    for (int k = 0; k < corners; ++k) {
      for (int p = 0; p < kLanes; ++p) {
        weights[k * kLanes + p] = static_cast<Real>(placed.weight[k][p]);
      }
      for (int p = block.count; p < kLanes; ++p) weights[k * kLanes + p] = 0;
    }
    if (keep_ranks_) {
      int8_t* ranks = ranks_.data() + block.index * stride();
      for (int k = 0; k < corners; ++k) {
        for (int p = 0; p < kLanes; ++p) {
          ranks[k * kLanes + p] = static_cast<int8_t>(placed.rank[k][p]);
        }
      }
    }

    alignas(64) uint64_t base_word[kWords][kLanes];
    for (int w = 0; w < kWords; ++w) {
      Vec<uint64_t, kLanes> packed = {};
      for (int i = 0; i < dims; ++i) {
        if (kWords > 1 && fields.word[i] != w) continue;
        const auto cell = load<Vec<int32_t, kLanes>>(placed.cell[i]);
        const auto wide = __builtin_convertvector(cell, Vec<int64_t, kLanes>);
        packed += (Vec<uint64_t, kLanes>)(wide - fields.low[i]) << fields.shift[i];
      }
      store(base_word[w], packed);
    }
    const auto base_of = [&](int p) {
      Key<kWords> base;
      for (int w = 0; w < kWords; ++w) base.word[w] = base_word[w][p];
      return base;
    };
    if (!tabulated) {
      Key<kWords> simplex[kLanes][kMaxFeatureDims + 1];
      uint64_t hash[kLanes][kMaxFeatureDims + 1];
      for (int p = 0; p < kLanes; ++p) {
        simplex_keys(base_of(p), placed, p, simplex[p]);
        for (int k = 0; k < corners; ++k) {
          hash[p][k] = simplex[p][k].hash();
          vertices->table.prefetch(hash[p][k]);
        }
      }
      for (int p = 0; p < kLanes; ++p) {
        for (int k = 0; k < corners; ++k) {
          rows[k * kLanes + p] = vertex_row(simplex[p][k], hash[p][k]);
        }
      }
      return;
    }

    size_t first_subset[kLanes];
    uint64_t hash[kLanes];
    for (int p = 0; p < kLanes; ++p) {
      hash[p] = base_of(p).hash();
      bases.prefetch(hash[p]);
    }
    for (int p = 0; p < kLanes; ++p) {
      const Key<kWords> base = base_of(p);
      if (last_table < 0 || !(base == last_base)) {
        last_base = base;
        last_table = bases.find_or_insert(base, hash[p], base_count);
        if (last_table == base_count) {
          ++base_count;
          subsets.extend(size_t{1} << subset_bits, 0xff);
        }
      }
      first_subset[p] = static_cast<size_t>(last_table) << subset_bits;
    }
    int32_t missing = 0;
    for (int k = 0; k < corners; ++k) {
      for (int p = 0; p < kLanes; ++p) {
        const int32_t row = subsets[first_subset[p] + placed.lowered[k][p]];
        rows[k * kLanes + p] = row;
        missing |= row;
      }
    }
    if (missing < 0) {
      for (int p = 0; p < kLanes; ++p) {
        Key<kWords> simplex[kMaxFeatureDims + 1];
        simplex_keys(base_of(p), placed, p, simplex);
        for (int k = 0; k < corners; ++k) {
          int32_t& row = subsets[first_subset[p] + placed.lowered[k][p]];
          if (row < 0) row = vertex_row(simplex[k], simplex[k].hash());
          rows[k * kLanes + p] = row;
        }
      }
    }
    points_placed += kLanes;
    if (base_count > 1024 && base_count * kFewestSharing > points_placed) tabulated = false;
  });
}

// Finds the vertices that chunks share and the chains along each axis.
template <typename Real>
template <int kWords>
Error Lattice<Real>::link(const Fields<kWords>& fields,
                          std::vector<ChunkVertices<kWords>>* chunks, Parallel parallel) {
  const int64_t chunk_count = static_cast<int64_t>(chunks->size());
  chunk_rows_.assign(1, 0);
  for (auto& chunk : *chunks) {
    chunk_rows_.push_back(chunk_rows_.back() + static_cast<int64_t>(chunk.keys.size()));
  }
  const int64_t row_count = rows();
  if (row_count > std::numeric_limits<int32_t>::max()) {
    return value_error("features must touch fewer than 2^31 lattice vertices, got ", row_count);
  }

  // One table for all chunks, cut by bits of the hash into parts that are filled side by side.
  const int part_bits = row_count > (1 << 20) ? 4 : row_count > 4096 ? 2 : 0;
  const auto part_of = [part_bits](uint64_t hash) {
    return static_cast<int>((hash >> 44) & ((1u << part_bits) - 1));
  };
  std::vector<VertexTable<kWords>> parts(size_t{1} << part_bits);
  Buffer<int32_t> primary(row_count);
  parallel(static_cast<int64_t>(parts.size()), [&](int64_t part) {
    parts[part].clear(row_count >> part_bits);
    constexpr int64_t kAhead = 16;
    for (int64_t c = 0; c < chunk_count; ++c) {
      const auto& keys = (*chunks)[c].keys;
      const int64_t first = chunk_rows_[c], count = static_cast<int64_t>(keys.size());
      for (int64_t i = 0; i < count; ++i) {
        if (i + kAhead < count) parts[part].prefetch(keys[i + kAhead].hash());
        const uint64_t hash = keys[i].hash();
        if (part_of(hash) != part) continue;
        const int32_t row = static_cast<int32_t>(first + i);
        primary[row] = parts[part].find_or_insert(keys[i], hash, row);
      }
    }
  });

  // Duplicates by primary row, and in the order of the chunks under each (a counting sort).
  Buffer<int32_t> primaries(row_count), place(row_count + 1);
  std::memset(place.data(), 0, (row_count + 1) * sizeof(int32_t));
  int64_t vertices = 0;
  for (int64_t row = 0; row < row_count; ++row) {
    if (primary[row] == row) {
      primaries[vertices++] = static_cast<int32_t>(row);
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

  axes_ = std::vector<Axis>(dims_ + 1);
  parallel(dims_ + 1, [&](int64_t j) {
    Buffer<int32_t> next(row_count);
    Buffer<char> has_previous(row_count);
    std::memset(has_previous.data(), 0, row_count);
    constexpr int64_t kAhead = 16;
    Key<kWords> key[kAhead];
    uint64_t hash[kAhead];
    int64_t chunk = 0;
    for (int64_t i = 0; i < vertices + kAhead; ++i) {
      if (i >= kAhead) {
        const int64_t slot = i % kAhead;
        const int32_t found = parts[part_of(hash[slot])].find(key[slot], hash[slot]);
        next[primaries[i - kAhead]] = found;
        if (found >= 0) has_previous[found] = 1;
      }
      if (i < vertices) {
        const int64_t row = primaries[i];
        while (row >= chunk_rows_[chunk + 1]) ++chunk;
        const auto& own = (*chunks)[chunk].keys[row - chunk_rows_[chunk]];
        key[i % kAhead] = fields.next(own, static_cast<int>(j), dims_);
        hash[i % kAhead] = key[i % kAhead].hash();
        parts[part_of(hash[i % kAhead])].prefetch(hash[i % kAhead]);
      }
    }
    Axis& axis = axes_[j];
    for (int64_t i = 0; i < vertices; ++i) {
      int32_t row = primaries[i];
      if (has_previous[row] || next[row] < 0) continue;
      axis.starts.push_back(static_cast<int32_t>(axis.rows.size()));
      for (; row >= 0; row = next[row]) axis.rows.push_back(row);
    }
    axis.starts.push_back(static_cast<int32_t>(axis.rows.size()));
  });
  return {};
}

template class Lattice<float>;
template class Lattice<double>;

}  // namespace FASTSEG_ISA
}  // namespace fastseg
