#include "permutohedral_check.h"

#include <algorithm>
#include <atomic>

namespace fastseg {
namespace {

Error check_simplices(const char* op, const ArgumentInfo& argument) {
  FASTSEG_RETURN_IF_ERROR(check_rank(op, argument, argument.shape.size() == 3, "(B, N, D + 1)"));
  return check_between(op, argument.name + ".shape[2]", argument.shape[2], 2, kMaxFeatureDims + 1);
}

Error check_same_shape(const char* op, const ArgumentInfo& a, const ArgumentInfo& b) {
  if (a.shape == b.shape) return {};
  return value_error(op, ": ", b.name, " must have the shape of ", a.name, ", ",
                     shape_text(a.shape), ", got ", shape_text(b.shape));
}

Error check_values(const char* op, const ArgumentInfo& vertices, const ArgumentInfo& values) {
  FASTSEG_RETURN_IF_ERROR(check_rank(op, values, values.shape.size() == 3, "(B, N, C)"));
  if (values.shape[0] == vertices.shape[0] && values.shape[1] == vertices.shape[1]) return {};
  return value_error(op, ": ", values.name, " must have shape (", vertices.shape[0], ", ",
                     vertices.shape[1], ", C), the points of ", vertices.name, ", got ",
                     shape_text(values.shape));
}

Error check_lattice(const char* op, const ArgumentInfo& lattice) {
  FASTSEG_RETURN_IF_ERROR(check_floating(op, lattice));
  FASTSEG_RETURN_IF_ERROR(check_rank(op, lattice, lattice.shape.size() == 2, "(M, C)"));
  return check_between(op, lattice.name + ".shape[0]", lattice.shape[0], 0, INT32_MAX);
}

template <typename Index>
Error check_index_range(const char* op, const char* name, const Index* indices, int64_t count,
                        int64_t low, int64_t high, Parallel parallel) {
  constexpr int64_t kBlock = int64_t{1} << 18;
  std::atomic<int64_t> first{count};
  parallel((count + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(count, begin + kBlock);
    bool all = true;  // no way out of this loop, so that it is vectorised
    for (int64_t i = begin; i < end; ++i) all &= indices[i] >= low && indices[i] < high;
    if (all) return;
    const Index* bad =
        std::find_if(indices + begin, indices + end, [&](Index i) { return i < low || i >= high; });
    int64_t seen = first.load();
    while (bad - indices < seen && !first.compare_exchange_weak(seen, bad - indices)) {
    }
  });
  if (first == count) return {};
  return value_error(op, ": ", name, " must be in [", low, ", ", high, "), got ",
                     indices[first.load()]);
}

}  // namespace

Error check_permutohedral_lattice(const ArgumentInfo& features) {
  const char* op = "permutohedral_lattice";
  FASTSEG_RETURN_IF_ERROR(check_floating(op, features));
  FASTSEG_RETURN_IF_ERROR(check_rank(op, features, features.shape.size() >= 3, "(B, D, *spatial)"));
  FASTSEG_RETURN_IF_ERROR(
      check_between(op, "features.shape[1]", features.shape[1], 1, kMaxFeatureDims));
  const std::vector<int64_t> spatial(features.shape.begin() + 2, features.shape.end());
  if (checked_product(spatial) == 0) {
    return value_error(op, ": features must have at least one point, got shape ",
                       shape_text(features.shape));
  }
  std::vector<int64_t> contributions = features.shape;
  contributions[1] += 1;
  return check_addressable(op, features, contributions, sizeof(int64_t));
}

Error check_permutohedral_splat(const SplatArguments& arguments) {
  const char* op = "permutohedral_splat";
  const auto& [values, vertices, barycentric, segments, contributors] = arguments;
  FASTSEG_RETURN_IF_ERROR(check_floating(op, values));
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, vertices, "int32"));
  FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, values, barycentric));
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, segments, "int64"));
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, contributors, "int64"));
  FASTSEG_RETURN_IF_ERROR(check_simplices(op, vertices));
  FASTSEG_RETURN_IF_ERROR(check_same_shape(op, vertices, barycentric));
  FASTSEG_RETURN_IF_ERROR(check_values(op, vertices, values));
  FASTSEG_RETURN_IF_ERROR(
      check_rank(op, segments, segments.shape.size() == 1 && segments.shape[0] >= 1, "(M + 1,)"));
  const int64_t count = checked_product(vertices.shape);
  if (contributors.shape != std::vector<int64_t>{count}) {
    return value_error(op, ": contributors must have one entry for each of vertices, (", count,
                       ",), got ", shape_text(contributors.shape));
  }
  return check_addressable(op, values, {segments.shape[0], values.shape[2]}, sizeof(double));
}

Error check_permutohedral_blur(const ArgumentInfo& lattice, const ArgumentInfo& neighbours) {
  const char* op = "permutohedral_blur";
  FASTSEG_RETURN_IF_ERROR(check_lattice(op, lattice));
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, neighbours, "int32"));
  const std::vector<int64_t>& shape = neighbours.shape;
  if (shape.size() != 3 || shape[1] != lattice.shape[0] || shape[2] != 2) {
    return value_error(op, ": neighbours must have shape (D + 1, ", lattice.shape[0], ", 2), got ",
                       shape_text(shape));
  }
  return check_between(op, "neighbours.shape[0]", shape[0], 2, kMaxFeatureDims + 1);
}

Error check_permutohedral_slice(const ArgumentInfo& lattice, const ArgumentInfo& vertices,
                                const ArgumentInfo& barycentric) {
  const char* op = "permutohedral_slice";
  FASTSEG_RETURN_IF_ERROR(check_lattice(op, lattice));
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, vertices, "int32"));
  FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, lattice, barycentric));
  FASTSEG_RETURN_IF_ERROR(check_simplices(op, vertices));
  FASTSEG_RETURN_IF_ERROR(check_same_shape(op, vertices, barycentric));
  return check_addressable(op, vertices, {vertices.shape[0], vertices.shape[1], lattice.shape[1]},
                           sizeof(double));
}

Error check_permutohedral_vertex_products(const ArgumentInfo& lattice, const ArgumentInfo& values,
                                          const ArgumentInfo& vertices) {
  const char* op = "permutohedral_vertex_products";
  FASTSEG_RETURN_IF_ERROR(check_lattice(op, lattice));
  FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, lattice, values));
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, vertices, "int32"));
  FASTSEG_RETURN_IF_ERROR(check_simplices(op, vertices));
  FASTSEG_RETURN_IF_ERROR(check_values(op, vertices, values));
  if (values.shape[2] != lattice.shape[1]) {
    return value_error(op, ": values must have the channels of lattice, ", lattice.shape[1],
                       ", got ", values.shape[2]);
  }
  return check_addressable(op, vertices, vertices.shape, sizeof(double));
}

Error check_permutohedral_sum(const ArgumentInfo& values) {
  const char* op = "permutohedral_sum";
  FASTSEG_RETURN_IF_ERROR(check_floating(op, values));
  FASTSEG_RETURN_IF_ERROR(check_rank(op, values, values.shape.size() == 3, "(B, N, C)"));
  if (values.shape[1] > 0) return {};
  return value_error(op, ": values must have at least one point, got shape ",
                     shape_text(values.shape));
}

Error check_indices(const char* op, const char* name, const int32_t* indices, int64_t count,
                    int64_t low, int64_t high, Parallel parallel) {
  return check_index_range(op, name, indices, count, low, high, parallel);
}

Error check_indices(const char* op, const char* name, const int64_t* indices, int64_t count,
                    int64_t low, int64_t high, Parallel parallel) {
  return check_index_range(op, name, indices, count, low, high, parallel);
}

Error check_segments(const char* op, const int64_t* segments, int64_t vertices,
                     int64_t contributors) {
  if (segments[0] == 0 && segments[vertices] == contributors &&
      std::is_sorted(segments, segments + vertices + 1)) {
    return {};
  }
  return value_error(op, ": segments must rise from 0 to the number of contributors, ",
                     contributors, ", got ", segments[0], " to ", segments[vertices],
                     std::is_sorted(segments, segments + vertices + 1) ? "" : " with a fall");
}

}  // namespace fastseg
