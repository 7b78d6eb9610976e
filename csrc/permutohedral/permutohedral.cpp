#include "permutohedral.h"

#include <memory>
#include <optional>
#include <tuple>

#include "../common/instruction_set.h"
#include "../common/torch_door.h"
#include "permutohedral_check.h"

// The lattice as torch operators: schema, and the CPU door.
namespace fastseg {
namespace {

const PermutohedralKernels& kernels() { return instruction_set().permutohedral; }

bool is_double(const Tensor& tensor) { return tensor.scalar_type() == TensorType::Double; }

using LatticeTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

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

LatticeTensors permutohedral_lattice(const Tensor& features) {
  return with_error_kinds("permutohedral_lattice", [&] {
    const ArgumentInfo info = info_of("features", features);
    raise_if(check_permutohedral_lattice(info));
    const int64_t batch = info.shape[0], dims = info.shape[1];
    const int64_t points = checked_product({info.shape.begin() + 2, info.shape.end()});
    const Tensor rows = packed(features);
    LatticeBuild* build = nullptr;
    Error error;
    with_torch_crew([&] {
      error = kernels().build(rows.const_data_ptr(), is_double(rows), batch, dims, points,
                              torch_threads(), &build);
    });
    const std::unique_ptr<LatticeBuild> owner(build);
    raise_if(from_kernel("permutohedral_lattice", "features", error));
    return write_lattice(*build, batch, points, dims, features.scalar_type());
  });
}

Tensor permutohedral_splat(const Tensor& values, const Tensor& vertices, const Tensor& barycentric,
                           const Tensor& segments, const Tensor& contributors) {
  const char* op = "permutohedral_splat";
  return with_error_kinds(op, [&] {
    raise_if(check_permutohedral_splat({info_of("values", values), info_of("vertices", vertices),
                                        info_of("barycentric", barycentric),
                                        info_of("segments", segments),
                                        info_of("contributors", contributors)}));
    const int64_t M = segments.numel() - 1, channels = values.size(2);
    const Tensor rows = packed(values), weights = packed(barycentric);
    const Tensor ends = packed(segments), members = packed(contributors);
    raise_if(check_segments(op, data<int64_t>(ends), M, members.numel()));
    raise_if(check_indices(op, "contributors", data<int64_t>(members), members.numel(), 0,
                           members.numel(), torch_threads()));
    Tensor lattice = empty_tensor({M, channels}, values.scalar_type());
    if (lattice.numel() == 0) return lattice;
    kernels().splat(rows.const_data_ptr(), weights.const_data_ptr(), data<int64_t>(ends),
                    data<int64_t>(members), is_double(rows), vertices.size(2) - 1, M, channels,
                    torch_threads(), lattice.mutable_data_ptr());
    return lattice;
  });
}

Tensor permutohedral_blur(const Tensor& lattice, const Tensor& neighbours, bool reverse) {
  const char* op = "permutohedral_blur";
  return with_error_kinds(op, [&] {
    raise_if(
        check_permutohedral_blur(info_of("lattice", lattice), info_of("neighbours", neighbours)));
    const int64_t M = lattice.size(0);
    const Tensor links = packed(neighbours);
    raise_if(check_indices(op, "neighbours", data<int32_t>(links), links.numel(), -1, M,
                           torch_threads()));
    Tensor blurred = empty_tensor(shape_of(lattice), lattice.scalar_type());
    if (blurred.numel() == 0) return blurred;
    torch::stable::copy_(blurred, lattice);
    with_torch_crew([&] {
      kernels().blur(blurred.mutable_data_ptr(), data<int32_t>(links), is_double(blurred),
                     links.size(0) - 1, M, lattice.size(1), reverse, torch_threads());
    });
    return blurred;
  });
}

// The gradient to `lattice` is a splat and needs the last two; they are not read here.
Tensor permutohedral_slice(const Tensor& lattice, const Tensor& vertices, const Tensor& barycentric,
                           std::optional<Tensor> /*segments*/,
                           std::optional<Tensor> /*contributors*/) {
  const char* op = "permutohedral_slice";
  return with_error_kinds(op, [&] {
    raise_if(check_permutohedral_slice(info_of("lattice", lattice), info_of("vertices", vertices),
                                       info_of("barycentric", barycentric)));
    const int64_t batch = vertices.size(0), points = vertices.size(1), channels = lattice.size(1);
    const Tensor rows = packed(lattice), corners = packed(vertices);
    const Tensor weights = packed(barycentric);
    raise_if(check_indices(op, "vertices", data<int32_t>(corners), corners.numel(), 0,
                           lattice.size(0), torch_threads()));
    Tensor values = empty_tensor({batch, points, channels}, lattice.scalar_type());
    if (values.numel() == 0) return values;
    kernels().slice(rows.const_data_ptr(), data<int32_t>(corners), weights.const_data_ptr(),
                    is_double(rows), vertices.size(2) - 1, batch * points, channels,
                    torch_threads(), values.mutable_data_ptr());
    return values;
  });
}

// The last two as in permutohedral_slice.
Tensor permutohedral_vertex_products(const Tensor& lattice, const Tensor& values,
                                     const Tensor& vertices, std::optional<Tensor> /*segments*/,
                                     std::optional<Tensor> /*contributors*/) {
  const char* op = "permutohedral_vertex_products";
  return with_error_kinds(op, [&] {
    raise_if(check_permutohedral_vertex_products(
        info_of("lattice", lattice), info_of("values", values), info_of("vertices", vertices)));
    const Tensor rows = packed(lattice), columns = packed(values);
    const Tensor corners = packed(vertices);
    raise_if(check_indices(op, "vertices", data<int32_t>(corners), corners.numel(), 0,
                           lattice.size(0), torch_threads()));
    Tensor products = empty_tensor(shape_of(vertices), lattice.scalar_type());
    if (products.numel() == 0) return products;
    kernels().vertex_products(rows.const_data_ptr(), columns.const_data_ptr(),
                              data<int32_t>(corners), is_double(rows), vertices.size(2) - 1,
                              vertices.size(0) * vertices.size(1), lattice.size(1), torch_threads(),
                              products.mutable_data_ptr());
    return products;
  });
}

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
}

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) {
  m.impl("permutohedral_lattice", TORCH_BOX(&permutohedral_lattice));
  m.impl("permutohedral_splat", TORCH_BOX(&permutohedral_splat));
  m.impl("permutohedral_blur", TORCH_BOX(&permutohedral_blur));
  m.impl("permutohedral_slice", TORCH_BOX(&permutohedral_slice));
  m.impl("permutohedral_vertex_products", TORCH_BOX(&permutohedral_vertex_products));
}

}  // namespace fastseg
