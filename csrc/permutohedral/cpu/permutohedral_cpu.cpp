#include <limits>
#include <memory>

#include "../../common/simd.h"
#include "../permutohedral.h"
#include "lattice.h"

namespace fastseg {
namespace FASTSEG_ISA {
namespace {

constexpr int64_t kTaskVertices = 512;
constexpr int64_t kTaskPoints = 2048;

// run(begin, end) over [0, count) in tasks of `size`.
template <typename Run>
void in_tasks(Parallel parallel, int64_t count, int64_t size, Run&& run) {
  parallel((count + size - 1) / size,
           [&](int64_t task) { run(task * size, std::min(count, (task + 1) * size)); });
}

// The simplices of one image's points, as the lattice was built.
template <typename Real>
class Simplices : public SimplexSink<Real> {
 public:
  Simplices(const PointOrder& order, int dims)
      : stride_((dims + 1) * kLanes),
        rows_(order.blocks() * stride_),
        weights_(rows_.size()),
        ranks_(rows_.size()) {}

  void take(int64_t /*chunk*/, const PointOrder::Block& block, int64_t /*row_count*/,
            const int32_t* rows, const Real* weights, const int32_t* ranks) override {
    const int64_t first = block.index * stride_;
    std::memcpy(&rows_[first], rows, stride_ * sizeof(int32_t));
    std::memcpy(&weights_[first], weights, stride_ * sizeof(Real));
    for (int64_t i = 0; i < stride_; ++i) ranks_[first + i] = static_cast<int8_t>(ranks[i]);
  }

  // (D + 1, 8) each.
  const int32_t* rows(int64_t block) const { return rows_.data() + block * stride_; }
  const Real* weights(int64_t block) const { return weights_.data() + block * stride_; }
  const int8_t* ranks(int64_t block) const { return ranks_.data() + block * stride_; }

 private:
  int64_t stride_;
  Buffer<int32_t> rows_;
  Buffer<Real> weights_;
  Buffer<int8_t> ranks_;
};

template <typename Real>
class BatchBuild : public LatticeBuild {
 public:
  Error build(const Real* features, int64_t batch, int64_t dims, int64_t points,
              Parallel parallel) {
    order_ = std::make_unique<PointOrder>(std::vector<int64_t>{points});
    lattices_ = std::vector<Lattice<Real>>(batch);
    for (int64_t b = 0; b < batch; ++b) {
      simplices_.emplace_back(*order_, static_cast<int>(dims));
      if (Error error = lattices_[b].build(*order_, features + b * dims * points,
                                           static_cast<int>(dims), &simplices_[b], parallel)) {
        return error;
      }
      first_vertex_.push_back(first_vertex_.back() + lattices_[b].vertex_count());
    }
    if (first_vertex_.back() > std::numeric_limits<int32_t>::max()) {
      return value_error("features must touch fewer than 2^31 lattice vertices, got ",
                         first_vertex_.back());
    }
    return {};
  }

  int64_t vertex_count() const override { return first_vertex_.back(); }

  void write(const Arrays& arrays, Parallel parallel) const override {
    const int64_t batch = static_cast<int64_t>(lattices_.size());
    if (batch == 0) {
      arrays.segments[0] = 0;
      return;
    }
    for (int64_t b = 0; b < batch; ++b) write_image(b, arrays, parallel);
    write_segments(arrays);
  }

 private:
  void write_image(int64_t b, const Arrays& arrays, Parallel parallel) const {
    const Lattice<Real>& lattice = lattices_[b];
    const int corners = lattice.dims() + 1;

    // Numbers of the rows' vertices: primary rows in order, duplicates as their primary.
    Buffer<int32_t> vertex_of(lattice.rows());
    std::memset(vertex_of.data(), 0, lattice.rows() * sizeof(int32_t));
    for (const auto& pair : lattice.duplicates()) vertex_of[pair.duplicate] = -1;
    int32_t vertex = static_cast<int32_t>(first_vertex_[b]);
    for (int64_t row = 0; row < lattice.rows(); ++row) {
      if (vertex_of[row] == 0) vertex_of[row] = vertex++;
    }
    for (const auto& pair : lattice.duplicates()) {
      vertex_of[pair.duplicate] = vertex_of[pair.primary];
    }

    const int64_t first = b * order_->points() * corners;
    parallel(order_->chunks(), [&](int64_t chunk) {
      order_->for_each_block(chunk, [&](const PointOrder::Block& block) {
        const int32_t* rows = simplices_[b].rows(block.index);
        const Real* weights = simplices_[b].weights(block.index);
        const int8_t* ranks = simplices_[b].ranks(block.index);
        for (int p = 0; p < block.count; ++p) {
          const int64_t at = first + (block.point + p) * corners;
          for (int k = 0; k < corners; ++k) {
            arrays.vertices[at + k] = vertex_of[lattice.chunk_row(chunk) + rows[k * kLanes + p]];
            static_cast<Real*>(arrays.barycentric)[at + k] = weights[k * kLanes + p];
            arrays.rank[at + k] = ranks[k * kLanes + p];
          }
        }
      });
    });

    parallel(corners, [&](int64_t j) {
      const auto& axis = lattice.axis(static_cast<int>(j));
      int32_t* neighbours = arrays.neighbours + j * vertex_count() * 2;
      std::fill(neighbours + 2 * first_vertex_[b], neighbours + 2 * first_vertex_[b + 1], -1);
      for (size_t chain = 0; chain + 1 < axis.starts.size(); ++chain) {
        for (int32_t i = axis.starts[chain]; i + 1 < axis.starts[chain + 1]; ++i) {
          const int64_t own = vertex_of[axis.rows[i]], next = vertex_of[axis.rows[i + 1]];
          neighbours[2 * own + 1] = static_cast<int32_t>(next);
          neighbours[2 * next] = static_cast<int32_t>(own);
        }
      }
    });
  }

  void write_segments(const Arrays& arrays) const {
    const int64_t contributions =
        static_cast<int64_t>(lattices_.size()) * order_->points() * (lattices_[0].dims() + 1);
    int64_t* segments = arrays.segments;
    std::memset(segments, 0, (vertex_count() + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < contributions; ++i) ++segments[arrays.vertices[i] + 1];
    for (int64_t m = 0; m < vertex_count(); ++m) segments[m + 1] += segments[m];
    for (int64_t i = 0; i < contributions; ++i) {
      arrays.contributors[segments[arrays.vertices[i]]++] = i;
    }
    for (int64_t m = vertex_count(); m > 0; --m) segments[m] = segments[m - 1];
    segments[0] = 0;
  }

  std::unique_ptr<PointOrder> order_;
  std::vector<Lattice<Real>> lattices_;
  std::vector<Simplices<Real>> simplices_;
  std::vector<int64_t> first_vertex_{0};
};

template <typename Real>
Error build_batch(const void* features, int64_t batch, int64_t dims, int64_t points,
                  Parallel parallel, LatticeBuild** build) {
  auto result = std::make_unique<BatchBuild<Real>>();
  Error error = result->build(static_cast<const Real*>(features), batch, dims, points, parallel);
  if (!error) *build = result.release();
  return error;
}

Error build(const void* features, bool double_precision, int64_t batch, int64_t dims,
            int64_t points, Parallel parallel, LatticeBuild** build) {
  return double_precision ? build_batch<double>(features, batch, dims, points, parallel, build)
                          : build_batch<float>(features, batch, dims, points, parallel, build);
}

template <typename Real>
void splat_as(const Real* values, const Real* barycentric, const int64_t* segments,
              const int64_t* contributors, int64_t corners, int64_t vertices, int64_t channels,
              Parallel parallel, Real* lattice) {
  in_tasks(parallel, vertices, kTaskVertices, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      Real* sum = lattice + m * channels;
      for (int64_t c = 0; c < channels; ++c) sum[c] = 0;
      for (int64_t s = segments[m]; s < segments[m + 1]; ++s) {
        const int64_t contributor = contributors[s];
        const Real weight = barycentric[contributor];
        const Real* value = values + contributor / corners * channels;
        for (int64_t c = 0; c < channels; ++c) sum[c] += weight * value[c];
      }
    }
  });
}

template <typename Real>
void blur_as(Real* lattice, const int32_t* neighbours, int64_t corners, int64_t vertices,
             int64_t channels, bool reverse, Parallel parallel) {
  Buffer<Real> other(static_cast<size_t>(vertices) * channels);
  Real* from = lattice;
  Real* to = other.data();
  for (int64_t step = 0; step < corners; ++step) {
    const int64_t axis = reverse ? corners - 1 - step : step;
    const int32_t* pairs = neighbours + axis * vertices * 2;
    in_tasks(parallel, vertices, kTaskVertices, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        const Real* own = from + m * channels;
        Real* result = to + m * channels;
        const int32_t previous = pairs[2 * m], next = pairs[2 * m + 1];
        const Real* before = from + int64_t{previous} * channels;
        const Real* after = from + int64_t{next} * channels;
        const Real half = static_cast<Real>(0.5);
        if (previous >= 0 && next >= 0) {
          for (int64_t c = 0; c < channels; ++c) result[c] = own[c] + half * (before[c] + after[c]);
        } else if (previous >= 0 || next >= 0) {
          const Real* only = previous >= 0 ? before : after;
          for (int64_t c = 0; c < channels; ++c) result[c] = own[c] + half * only[c];
        } else {
          for (int64_t c = 0; c < channels; ++c) result[c] = own[c];
        }
      }
    });
    std::swap(from, to);
  }
  if (from != lattice) {
    std::memcpy(lattice, from, static_cast<size_t>(vertices) * channels * sizeof(Real));
  }
}

template <typename Real>
void slice_as(const Real* lattice, const int32_t* vertices, const Real* barycentric,
              int64_t corners, int64_t points, int64_t channels, Parallel parallel, Real* values) {
  in_tasks(parallel, points, kTaskPoints, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Real* value = values + i * channels;
      for (int64_t c = 0; c < channels; ++c) value[c] = 0;
      for (int64_t k = 0; k < corners; ++k) {
        const Real weight = barycentric[i * corners + k];
        const Real* row = lattice + int64_t{vertices[i * corners + k]} * channels;
        for (int64_t c = 0; c < channels; ++c) value[c] += weight * row[c];
      }
    }
  });
}

template <typename Real>
void vertex_products_as(const Real* lattice, const Real* values, const int32_t* vertices,
                        int64_t corners, int64_t points, int64_t channels, Parallel parallel,
                        Real* products) {
  in_tasks(parallel, points, kTaskPoints, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * corners; i < end * corners; ++i) {
      const Real* row = lattice + int64_t{vertices[i]} * channels;
      const Real* value = values + i / corners * channels;
      Real sum = 0;
      for (int64_t c = 0; c < channels; ++c) sum += row[c] * value[c];
      products[i] = sum;
    }
  });
}

void splat(const void* values, const void* barycentric, const int64_t* segments,
           const int64_t* contributors, bool double_precision, int64_t dims, int64_t vertices,
           int64_t channels, Parallel parallel, void* lattice) {
  const auto as = [&](auto* typed) {
    using Real = std::remove_pointer_t<decltype(typed)>;
    splat_as(static_cast<const Real*>(values), static_cast<const Real*>(barycentric), segments,
             contributors, dims + 1, vertices, channels, parallel, typed);
  };
  double_precision ? as(static_cast<double*>(lattice)) : as(static_cast<float*>(lattice));
}

void blur(void* lattice, const int32_t* neighbours, bool double_precision, int64_t dims,
          int64_t vertices, int64_t channels, bool reverse, Parallel parallel) {
  const auto as = [&](auto* typed) {
    blur_as(typed, neighbours, dims + 1, vertices, channels, reverse, parallel);
  };
  double_precision ? as(static_cast<double*>(lattice)) : as(static_cast<float*>(lattice));
}

void slice(const void* lattice, const int32_t* vertices, const void* barycentric,
           bool double_precision, int64_t dims, int64_t points, int64_t channels, Parallel parallel,
           void* values) {
  const auto as = [&](auto* typed) {
    using Real = std::remove_pointer_t<decltype(typed)>;
    slice_as(static_cast<const Real*>(lattice), vertices, static_cast<const Real*>(barycentric),
             dims + 1, points, channels, parallel, typed);
  };
  double_precision ? as(static_cast<double*>(values)) : as(static_cast<float*>(values));
}

void vertex_products(const void* lattice, const void* values, const int32_t* vertices,
                     bool double_precision, int64_t dims, int64_t points, int64_t channels,
                     Parallel parallel, void* products) {
  const auto as = [&](auto* typed) {
    using Real = std::remove_pointer_t<decltype(typed)>;
    vertex_products_as(static_cast<const Real*>(lattice), static_cast<const Real*>(values),
                       vertices, dims + 1, points, channels, parallel, typed);
  };
  double_precision ? as(static_cast<double*>(products)) : as(static_cast<float*>(products));
}

}  // namespace

const PermutohedralKernels& permutohedral_kernels() {
  static const PermutohedralKernels kernels = {build, splat, blur, slice, vertex_products};
  return kernels;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
