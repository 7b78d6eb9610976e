#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../../common/buffer.h"
#include "../../common/parallel.h"
#include "../../common/simd.h"
#include "../simplex_math.h"
#include "point_order.h"

namespace fastseg {
namespace FASTSEG_ISA {

// The permutohedral lattice of two features that are the pixels' own places: the first grows along
// the lines of the image, the second from line to line. Its vertices are those of a triangular
// grid, stored without keys, and a pixel's simplex is found anew each time: that is less work than
// reading it from memory.
//
//     o       o       o       Vertices lie on columns, one unit apart, and those of every other
//     |   o   |   o   |       column half a unit lower. In units of the distance of columns, a
//     o   |   o   |   o       pixel at fraction t of the way from one column to the next has the
//     |   o   |   o   |       weight clamp((1 + part) / 2 - d, 0, part) for a vertex at distance d
//     o       o       o       along the column, where part is 1 - t on the one and t on the other.
//
// Row r has the vertices at height r of the even columns and at r + 1/2 of the odd ones.
class PlanarLattice {
 public:
  static constexpr float kWeightUnit = 1.0f;

  // Lays out the lattice of features (2, N). False, and nothing is laid out, where they are no
  // such places, or where the pixels lie so far apart that vertices between them might touch none.
  bool lay_out(const PointOrder& order, const float* features, Parallel parallel) {
    if (!order.keeps_lines() || !read_places(order, features, parallel)) return false;
    if (!place_columns() || !place_lines()) return false;
    find_chunks(order);
    find_vertices();
    return true;
  }

  // The features again: (2, N).
  void write_features(float* features) const {
    const size_t width = across_.size(), height = down_.size();
    for (size_t y = 0; y < height; ++y) {
      std::copy(across_.begin(), across_.end(), features + y * width);
      std::fill_n(features + (height + y) * width, width, down_[y]);
    }
  }

  // How many floats `values` and `sums` below have.
  int64_t value_count() const { return 2 * size(); }
  int64_t sum_count() const { return chunk_sums_.back(); }
  // First of the chunk's sums, and at chunks() the end.
  int64_t chunk_sum(int64_t chunk) const { return chunk_sums_[chunk]; }

  // The block's pixels' sums of weight times value, of blurred `values`.
  Vec<float, kLanes> slice(const PointOrder::Block& block, const float* values) const {
    const PixelLine& line = pixel_lines_[block.line];
    const float* odd = values + line.odd_row * stride_ + windows_[block.column];
    const float* even = odd + line.even_lower * stride_;
    const V upper = by_column(load<V>(even), load<V>(odd));
    const V step = by_column(load<V>(even + stride_), load<V>(odd + stride_)) - upper;
    const V fraction = load<V>(line.fractions);
    const V place = load<V>(&places_[block.column * kLanes]);
    const I column = __builtin_convertvector(place, I);
    const V right = place - __builtin_convertvector(column, V);
    const auto of_column = [&](I number, V part) {
      return permute8(upper, number) * part +
             permute8(step, number) * lower_weight(permute8(fraction, number), part);
    };
    return of_column(column, 1.0f - right) + of_column(column + 1, right);
  }

  // The other way round: the chunk's sums += weight times pixel.
  void splat(int64_t chunk, const PointOrder::Block& block, Vec<float, kLanes> pixels,
             float* sums) const {
    const PixelLine& line = pixel_lines_[block.line];
    const float* places = &places_[block.column * kLanes];
    const V column = {0, 1, 2, 3, 4, 5, 6, 7};
    const V fraction = load<V>(line.fractions);
    V both = {}, lower = {};  // what goes to the vertices above and below, and to the one below
#pragma GCC unroll 8
    for (int p = 0; p < kLanes; ++p) {
      const V part = vector_max(1.0f - vector_abs(places[p] - column), V{});
      both += part * pixels[p];
      lower += lower_weight(fraction, part) * pixels[p];
    }
    const V upper = both - lower, none = {};
    const int64_t first = line.odd_row - chunk_rows_[chunk].begin;
    float* window = sums + first * stride_ + windows_[block.column];
    if (line.even_lower) {
      add(window, by_column(none, upper));
      add(window + stride_, by_column(upper, lower));
      add(window + 2 * stride_, by_column(lower, none));
    } else {
      add(window, upper);
      add(window + stride_, lower);
    }
  }

  // values = the weights of all pixels, blurred.
  void blur_ones(const PointOrder& order, float* values, Parallel parallel) const {
    Buffer<float> sums(sum_count());
    parallel(order.chunks(), [&](int64_t chunk) {
      float* own = sums.data() + chunk_sum(chunk);
      std::fill(own, sums.data() + chunk_sum(chunk + 1), 0.0f);
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        splat(chunk, block, broadcast<V>(1.0f), own);
      });
    });
    blur(sums.data(), values, parallel);
  }

  // values = all chunks' sums, blurred along each axis in turn: v + (previous + next) / 2.
  void blur(const float* sums, float* values, Parallel parallel) const {
    float* other = values + size();
    const int64_t tasks = std::clamp<int64_t>(rows_ / 16, 1, 64);
    const auto for_each_row = [&](auto&& visit) {
      parallel(tasks, [&](int64_t task) {
        for (int64_t r = rows_ * task / tasks; r < rows_ * (task + 1) / tasks; ++r) visit(r);
      });
    };
    for_each_row([&](int64_t row) { gather_row(sums, row, other); });
    for_each_row([&](int64_t row) { blur_row<0>(row, other, values); });
    for_each_row([&](int64_t row) { blur_row<1>(row, values, other); });
    for_each_row([&](int64_t row) { blur_row<2>(row, other, values); });
  }

 private:
  using V = Vec<float, kLanes>;
  using I = Vec<int32_t, kLanes>;

  // The row whose vertices lie next above a line of pixels in the odd columns; whether those of the
  // even columns are one row lower; and how far above the pixels they are, by column of a window.
  struct PixelLine {
    int64_t odd_row, even_lower;
    float fractions[kLanes];
  };
  struct RowRange {
    int64_t begin, end;
  };

  int64_t size() const { return rows_ * stride_; }

  // Elements of `even` in the even columns of a window, of `odd` in the others.
  static V by_column(V even, V odd) { return shuffle<0, 9, 2, 11, 4, 13, 6, 15>(even, odd); }

  // Weight of the vertex below, for pixels `fraction` below the one above.
  static V lower_weight(V fraction, V part) {
    return vector_min(vector_max(fraction - 0.5f + part * 0.5f, V{}), part);
  }

  static void add(float* to, V values) { store(to, load<V>(to) + values); }

  // across_ and down_; false where the features are something else, or not finite.
  bool read_places(const PointOrder& order, const float* features, Parallel parallel) {
    const int64_t width = order.width(), height = order.points() / width;
    const float* second = features + order.points();
    std::vector<char> same(order.chunks());
    parallel(order.chunks(), [&](int64_t chunk) {
      I differs = {};
      order.for_each_block(chunk, [&](const PointOrder::Block& block) {
        const int64_t x = block.column * kLanes;
        __builtin_prefetch(features + block.point + 2 * kLanes);
        __builtin_prefetch(second + block.point + 2 * kLanes);
        differs |= load_first(features + block.point, block.count) !=
                   load_first(features + x, block.count);
        differs |=
            load_first(second + block.point, block.count) != broadcast<V>(second[block.point - x]);
      });
      same[chunk] = 1;
      for (int p = 0; p < kLanes; ++p) same[chunk] &= differs[p] == 0;
    });
    if (std::count(same.begin(), same.end(), 1) != order.chunks()) return false;
    across_.assign(features, features + width);
    down_.resize(height);
    for (int64_t y = 0; y < height; ++y) down_[y] = second[y * width];
    const auto usable = [](const std::vector<float>& places) {
      return std::is_sorted(places.begin(), places.end()) && std::abs(places.front()) < 1e5f &&
             std::abs(places.back()) < 1e5f;
    };
    return usable(across_) && usable(down_);
  }

  // Place among the columns of vertices, and height in units of their distance.
  static double column_of(float across) { return across * feature_scale(0, 2) / 1.5; }
  static double height_of(float down) { return down * feature_scale(1, 2); }

  static constexpr double kFarthest = 0.95;  // pixels apart, in units of the lattice

  static constexpr float kNowhere = 1e6f;  // no weight for any vertex of a window

  bool place_columns() {
    const int64_t width = static_cast<int64_t>(across_.size());
    const int64_t blocks = (width + kLanes - 1) / kLanes;
    // Windows begin at even columns.
    const auto window_of = [](double column) {
      return 2 * static_cast<int64_t>(std::floor(column / 2));
    };
    first_column_ = window_of(column_of(across_.front())) - kLanes;
    places_.resize(blocks * kLanes);
    windows_.resize(blocks);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = window_of(column_of(across_[b * kLanes]));
      windows_[b] = first - first_column_;
      for (int64_t x = b * kLanes; x < (b + 1) * kLanes; ++x) {
        const int64_t used = std::min(x, width - 1);
        const double place = column_of(across_[used]) - static_cast<double>(first);
        if (!(place < kLanes - 1.001)) return false;
        if (used > 0 && column_of(across_[used]) - column_of(across_[used - 1]) > kFarthest) {
          return false;
        }
        places_[x] = x < width ? static_cast<float>(place) : kNowhere;
      }
    }
    stride_ = windows_.back() / kLanes * kLanes + 3 * kLanes;
    return true;
  }

  bool place_lines() {
    const int64_t height = static_cast<int64_t>(down_.size());
    first_row_ = static_cast<int64_t>(std::floor(height_of(down_.front()))) - 2;
    pixel_lines_.resize(height);
    for (int64_t y = 0; y < height; ++y) {
      const double place = height_of(down_[y]) - static_cast<double>(first_row_);
      if (y > 0 && height_of(down_[y]) - height_of(down_[y - 1]) > kFarthest) return false;
      const double even = std::floor(place), odd = std::floor(place - 0.5);
      PixelLine& line = pixel_lines_[y];
      line.odd_row = static_cast<int64_t>(odd);
      line.even_lower = static_cast<int64_t>(even) - line.odd_row;
      for (int c = 0; c < kLanes; ++c) {
        line.fractions[c] = static_cast<float>(c % 2 == 0 ? place - even : place - 0.5 - odd);
      }
    }
    rows_ = pixel_lines_.back().odd_row + 4;
    return true;
  }

  void find_chunks(const PointOrder& order) {
    chunk_sums_.assign(1, 0);
    for (int64_t chunk = 0; chunk < order.chunks(); ++chunk) {
      const int64_t first = order.chunk_line(chunk), last = order.chunk_line(chunk + 1) - 1;
      const RowRange rows = {pixel_lines_[first].odd_row, pixel_lines_[last].odd_row + 3};
      chunk_rows_.push_back(rows);
      chunk_sums_.push_back(chunk_sums_.back() + (rows.end - rows.begin) * stride_);
    }
  }

  // present_: one for the vertices of the pixels' simplices. Values of the others stay zero, also
  // between two axes of the blur. A vertex is one of a pixel's where it lies less than one column
  // and less than 1 - (distance of the columns) / 2 in height away; the nearest column of pixels
  // and the nearest line decide. A pixel that lies on a vertex has two more, of weight zero; that
  // is a corner of the image, or else pixels around it have them as well.
  void find_vertices() {
    const auto nearest = [](const std::vector<float>& places, double at, auto&& place_of) {
      const auto behind = std::partition_point(places.begin(), places.end(),
                                               [&](float place) { return place_of(place) < at; });
      double distance = std::numeric_limits<double>::infinity();
      if (behind != places.end()) distance = place_of(*behind) - at;
      if (behind != places.begin()) distance = std::min(distance, at - place_of(*(behind - 1)));
      return distance;
    };
    present_.reset(size());
    std::vector<double> reach(stride_);  // in height, of a column
    for (int64_t c = 0; c < stride_; ++c) {
      const double at = static_cast<double>(first_column_ + c);
      const double distance = nearest(across_, at, column_of);
      reach[c] = distance < 1 ? 1 - distance / 2 : 0;
    }
    for (int64_t r = 0; r < rows_; ++r) {
      const double at = static_cast<double>(first_row_ + r);
      const double even = nearest(down_, at, height_of), odd = nearest(down_, at + 0.5, height_of);
      float* row = present_.data() + r * stride_;
      for (int64_t c = 0; c < stride_; ++c) row[c] = (c % 2 == 0 ? even : odd) < reach[c];
    }
    for (float down : {down_.front(), down_.back()}) {
      mark_simplex(across_.front(), down);
      mark_simplex(across_.back(), down);
    }
  }

  void mark_simplex(float across, float down) {
    const float feature[2] = {across * static_cast<float>(feature_scale(0, 2)),
                              down * static_cast<float>(feature_scale(1, 2))};
    float elevated[3], weight[3];
    int32_t cell[3], rank[3];
    elevate<float, float, 2>(feature, elevated);
    enclosing_simplex<float, float, int32_t, 2>(
        elevated, cell, rank, weight, [](float v) { return std::nearbyint(v); },
        [](float v) { return static_cast<int32_t>(v); },
        [](int32_t v) { return static_cast<float>(v); });
    for (int k = 0; k < 3; ++k) {
      const auto coordinate = [&](int i) { return 3 * cell[i] + k - (rank[i] > 2 - k ? 3 : 0); };
      const int64_t column = (2 * coordinate(0) + coordinate(2)) / 3;
      const int64_t row = (-coordinate(2) - (column & 1)) / 2;
      present_[(row - first_row_) * stride_ + column - first_column_] = 1;
    }
  }

  void gather_row(const float* sums, int64_t row, float* values) const {
    float* to = values + row * stride_;
    std::memset(to, 0, stride_ * sizeof(float));
    for (size_t chunk = 0; chunk < chunk_rows_.size(); ++chunk) {
      const RowRange& own = chunk_rows_[chunk];
      if (row < own.begin || row >= own.end) continue;
      const float* from = sums + chunk_sums_[chunk] + (row - own.begin) * stride_;
      for (int64_t i = 0; i < stride_; i += kLanes) add(to + i, load<V>(from + i));
    }
  }

  // Neighbours along axis 2 lie one up and one down. Those along axis 0 lie half a unit down in
  // the next column and half a unit up in the last, those along axis 1 the other way round.
  template <int kAxis>
  void blur_row(int64_t row, const float* from, float* to) const {
    float* blurred = to + row * stride_;
    std::memset(blurred, 0, stride_ * sizeof(float));
    if (row == 0 || row == rows_ - 1) return;
    constexpr int kDown = kAxis == 0 ? 1 : kAxis == 1 ? -1 : 0;
    const float* own = from + row * stride_;
    const float* present = present_.data() + row * stride_;
    for (int64_t i = kLanes; i < stride_ - kLanes; i += kLanes) {
      V above = load<V>(own + i - stride_ - kDown), below = load<V>(own + i + stride_ + kDown);
      if (kAxis != 2) {
        above = by_column(above, load<V>(own + i - kDown));
        below = by_column(load<V>(own + i + kDown), below);
      }
      store(blurred + i, load<V>(present + i) * (load<V>(own + i) + (above + below) * 0.5f));
    }
  }

  std::vector<float> across_, down_;  // the features: by column and by line of pixels
  std::vector<float> places_;         // by column of pixels: place in the block's window
  std::vector<int64_t> windows_;      // by block: the first of eight columns of vertices
  std::vector<PixelLine> pixel_lines_;
  std::vector<RowRange> chunk_rows_;  // rows of vertices that a chunk touches
  std::vector<int64_t> chunk_sums_;
  Buffer<float> present_;  // (rows, stride)
  int64_t first_column_ = 0, first_row_ = 0;
  int64_t rows_ = 0, stride_ = 0;  // of vertices; columns begin and end with eight empty ones
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
