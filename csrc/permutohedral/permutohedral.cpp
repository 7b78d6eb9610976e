#include <algorithm>
#include <memory>

#include "../common/instruction_set.h"
#include "permutohedral_door.h"

// The lattice as torch operators: schema, and the CPU's kernels behind the door.
namespace fastseg {
namespace {

LatticeTensors write_lattice(const LatticeBuild& build, int64_t batch, int64_t points, int64_t dims,
                             TensorType type) {
  const int64_t corners = dims + 1, M = build.vertex_count();
  LatticeTensors lattice = {empty_tensor({batch, points, corners}, TensorType::Int),
                            empty_tensor({batch, points, corners}, type),
                            empty_tensor({batch, points, corners}, TensorType::Char),
                            empty_tensor({corners, M, 2}, TensorType::Int),
                            empty_tensor({M + 1}, TensorType::Long),
                            empty_tensor({batch * points * corners}, TensorType::Long)};
  const auto& [vertices, barycentric, rank, neighbours, segments, contributors] = lattice;
  const LatticeBuild::Arrays arrays = {
      mutable_data<int32_t>(vertices), barycentric.mutable_data_ptr(),
      mutable_data<int8_t>(rank),      mutable_data<int32_t>(neighbours),
      mutable_data<int64_t>(segments), mutable_data<int64_t>(contributors)};
  with_torch_crew([&] { build.write(arrays, torch_threads()); });
  return lattice;
}

// sums (C) of values (N, C), in double precision and from the first point to the last, or from the
// last to the first.
template <typename Real>
void sum_image(const Real* values, int64_t points, int64_t channels, bool reverse, Real* sums) {
  std::vector<double> total(channels);
  for (int64_t i = 0; i < points; ++i) {
    const Real* point = values + (reverse ? points - 1 - i : i) * channels;
    for (int64_t c = 0; c < channels; ++c) total[c] += point[c];
  }
  std::transform(total.begin(), total.end(), sums, [](double x) { return static_cast<Real>(x); });
}

template <typename Real>
void sum_images(const Tensor& values, bool reverse, const Tensor& sums) {
  const int64_t points = values.size(1), channels = values.size(2);
  torch_threads()(values.size(0), [&](int64_t b) {
    sum_image(data<Real>(values) + b * points * channels, points, channels, reverse,
              mutable_data<Real>(sums) + b * channels);
  });
}

struct CpuBackend {
  const char* op;
  const PermutohedralKernels& kernels = instruction_set().permutohedral;

  CpuBackend(const char* name, const Tensor&) : op(name) {}

  LatticeTensors build(const Tensor& rows, int64_t batch, int64_t dims, int64_t points) const {
    LatticeBuild* build = nullptr;
    Error error;
    with_torch_crew([&] {
      error = kernels.build(rows.const_data_ptr(), is_double(rows), batch, dims, points,
                            torch_threads(), &build);
    });
    const std::unique_ptr<LatticeBuild> owner(build);
    raise_if(from_kernel(op, "features", error));
    return write_lattice(*build, batch, points, dims, rows.scalar_type());
  }

  void check_segments(const int64_t* segments, int64_t vertices, int64_t contributors) const {
    raise_if(fastseg::check_segments(op, segments, vertices, contributors));
  }
  template <typename Index>
  void check_indices(const char* name, const Index* indices, int64_t count, int64_t low,
                     int64_t high) const {
    raise_if(fastseg::check_indices(op, name, indices, count, low, high, torch_threads()));
  }

  void splat(const Tensor& values, const Tensor& vertices, const Tensor& weights,
             const int64_t* segments, const Tensor& contributors, const Tensor& lattice) const {
    kernels.splat(values.const_data_ptr(), weights.const_data_ptr(), segments,
                  data<int64_t>(contributors), is_double(values), vertices.size(2) - 1,
                  lattice.size(0), lattice.size(1), torch_threads(), lattice.mutable_data_ptr());
  }
  Tensor blur(const Tensor& lattice, const Tensor& links, bool reverse) const {
    with_torch_crew([&] {
      kernels.blur(lattice.mutable_data_ptr(), data<int32_t>(links), is_double(lattice),
                   links.size(0) - 1, lattice.size(0), lattice.size(1), reverse, torch_threads());
    });
    return lattice;
  }
  void slice(const Tensor& lattice, const Tensor& vertices, const Tensor& weights,
             const Tensor& values) const {
    kernels.slice(lattice.const_data_ptr(), data<int32_t>(vertices), weights.const_data_ptr(),
                  is_double(lattice), vertices.size(2) - 1, vertices.size(0) * vertices.size(1),
                  lattice.size(1), torch_threads(), values.mutable_data_ptr());
  }
  void vertex_products(const Tensor& lattice, const Tensor& values, const Tensor& vertices,
                       const Tensor& products) const {
    kernels.vertex_products(lattice.const_data_ptr(), values.const_data_ptr(),
                            data<int32_t>(vertices), is_double(lattice), vertices.size(2) - 1,
                            vertices.size(0) * vertices.size(1), lattice.size(1), torch_threads(),
                            products.mutable_data_ptr());
  }
  void sum(const Tensor& values, bool reverse, const Tensor& sums) const {
    is_double(values) ? sum_images<double>(values, reverse, sums)
                      : sum_images<float>(values, reverse, sums);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fastseg, m) {
  m.def(
      "permutohedral_lattice(Tensor features) -> (Tensor vertices, Tensor barycentric, "
      "Tensor rank, Tensor neighbours, Tensor segments, Tensor contributors)");
  m.def(
      "permutohedral_splat(Tensor values, Tensor vertices, Tensor barycentric, Tensor segments, "
      "Tensor contributors) -> Tensor");
  m.def("permutohedral_blur(Tensor lattice, Tensor neighbours, bool reverse) -> Tensor");
  m.def(
      "permutohedral_slice(Tensor lattice, Tensor vertices, Tensor barycentric, "
      "Tensor? segments=None, Tensor? contributors=None) -> Tensor");
  m.def(
      "permutohedral_vertex_products(Tensor lattice, Tensor values, Tensor vertices, "
      "Tensor? segments=None, Tensor? contributors=None) -> Tensor");
  m.def("permutohedral_sum(Tensor values, bool reverse=False) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) { implement_permutohedral<CpuBackend>(m); }

}  // namespace fastseg
