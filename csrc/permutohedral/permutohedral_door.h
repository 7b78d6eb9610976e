#pragma once

#include <optional>
#include <tuple>

#include "../common/torch_door.h"
#include "permutohedral_check.h"

// The operators of the lattice between torch and the kernels of a Backend, which is made for one
// call from the operator's name and a tensor on its device.
namespace fastseg {

inline bool is_double(const Tensor& tensor) { return tensor.scalar_type() == TensorType::Double; }

// As the schema names them.
using LatticeTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename Backend>
LatticeTensors permutohedral_lattice(const Tensor& features) {
  return with_error_kinds("permutohedral_lattice", [&] {
    const ArgumentInfo info = info_of("features", features);
    raise_if(check_permutohedral_lattice(info));
    const int64_t points = checked_product({info.shape.begin() + 2, info.shape.end()});
    return Backend("permutohedral_lattice", features)
        .build(packed(features), info.shape[0], info.shape[1], points);
  });
}

template <typename Backend>
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
    const Backend backend(op, values);
    backend.check_segments(data<int64_t>(ends), M, members.numel());
    backend.check_indices("contributors", data<int64_t>(members), members.numel(), 0,
                          members.numel());
    Tensor lattice = empty_tensor({M, channels}, values.scalar_type(), values.device());
    if (lattice.numel() == 0) return lattice;
    backend.splat(rows, packed(vertices), weights, data<int64_t>(ends), members, lattice);
    return lattice;
  });
}

template <typename Backend>
Tensor permutohedral_blur(const Tensor& lattice, const Tensor& neighbours, bool reverse) {
  const char* op = "permutohedral_blur";
  return with_error_kinds(op, [&] {
    raise_if(
        check_permutohedral_blur(info_of("lattice", lattice), info_of("neighbours", neighbours)));
    const int64_t M = lattice.size(0);
    const Tensor links = packed(neighbours);
    const Backend backend(op, lattice);
    backend.check_indices("neighbours", data<int32_t>(links), links.numel(), -1, M);
    Tensor blurred = empty_tensor(shape_of(lattice), lattice.scalar_type(), lattice.device());
    if (blurred.numel() == 0) return blurred;
    torch::stable::copy_(blurred, lattice);
    return backend.blur(blurred, links, reverse);
  });
}

// The gradient to `lattice` is a splat and needs the last two; they are not read here.
template <typename Backend>
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
    const Backend backend(op, lattice);
    backend.check_indices("vertices", data<int32_t>(corners), corners.numel(), 0, lattice.size(0));
    Tensor values =
        empty_tensor({batch, points, channels}, lattice.scalar_type(), lattice.device());
    if (values.numel() == 0) return values;
    backend.slice(rows, corners, weights, values);
    return values;
  });
}

// The last two as in permutohedral_slice.
template <typename Backend>
Tensor permutohedral_vertex_products(const Tensor& lattice, const Tensor& values,
                                     const Tensor& vertices, std::optional<Tensor> /*segments*/,
                                     std::optional<Tensor> /*contributors*/) {
  const char* op = "permutohedral_vertex_products";
  return with_error_kinds(op, [&] {
    raise_if(check_permutohedral_vertex_products(
        info_of("lattice", lattice), info_of("values", values), info_of("vertices", vertices)));
    const Tensor rows = packed(lattice), columns = packed(values);
    const Tensor corners = packed(vertices);
    const Backend backend(op, lattice);
    backend.check_indices("vertices", data<int32_t>(corners), corners.numel(), 0, lattice.size(0));
    Tensor products = empty_tensor(shape_of(vertices), lattice.scalar_type(), lattice.device());
    if (products.numel() == 0) return products;
    backend.vertex_products(rows, columns, corners, products);
    return products;
  });
}

template <typename Backend>
Tensor permutohedral_sum(const Tensor& values, bool reverse) {
  const char* op = "permutohedral_sum";
  return with_error_kinds(op, [&] {
    raise_if(check_permutohedral_sum(info_of("values", values)));
    const Tensor columns = packed(values);
    const Backend backend(op, values);
    Tensor sums =
        empty_tensor({values.size(0), 1, values.size(2)}, values.scalar_type(), values.device());
    if (sums.numel() == 0) return sums;
    backend.sum(columns, reverse, sums);
    return sums;
  });
}

template <typename Backend>
void implement_permutohedral(torch::stable::detail::StableLibrary& m) {
  m.impl("permutohedral_lattice", TORCH_BOX(&permutohedral_lattice<Backend>));
  m.impl("permutohedral_splat", TORCH_BOX(&permutohedral_splat<Backend>));
  m.impl("permutohedral_blur", TORCH_BOX(&permutohedral_blur<Backend>));
  m.impl("permutohedral_slice", TORCH_BOX(&permutohedral_slice<Backend>));
  m.impl("permutohedral_vertex_products", TORCH_BOX(&permutohedral_vertex_products<Backend>));
  m.impl("permutohedral_sum", TORCH_BOX(&permutohedral_sum<Backend>));
}

}  // namespace fastseg
