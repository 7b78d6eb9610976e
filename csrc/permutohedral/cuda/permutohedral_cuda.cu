#include <algorithm>
#include <type_traits>
#include <utility>

#include "permutohedral_cuda.h"
#include "permutohedral_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kFilterThreads - 1) / kFilterThreads);
}

// use(null pointer of the type of the values).
template <typename Use>
void with_real(bool double_precision, Use&& use) {
  if (double_precision) return use(static_cast<double*>(nullptr));
  return use(static_cast<float*>(nullptr));
}

}  // namespace

cudaError_t splat(const SplatArrays& arrays, bool double_precision, int64_t dims,
                  int64_t contributions, int64_t vertices, int64_t channels,
                  const Allocate& allocate, cudaStream_t stream, void* lattice) {
  with_real(double_precision, [&](auto* type) {
    using Real = std::remove_pointer_t<decltype(type)>;
    const Splat<Real> splat = {static_cast<const Real*>(arrays.values),
                               static_cast<const Real*>(arrays.barycentric),
                               arrays.vertices,
                               arrays.segments,
                               arrays.contributors,
                               contributions,
                               vertices,
                               channels,
                               Corners(dims)};
    const int64_t rows = piece_tiles(contributions);
    auto* tiles = static_cast<Real*>(allocate(rows * channels * int64_t{sizeof(Real)}));
    FASTSEG_LAUNCH(splat_pieces<Real>, blocks_of((vertices + rows) * channels), kFilterThreads, 0,
                   stream, splat, static_cast<Real*>(lattice), tiles);
    FASTSEG_LAUNCH(join_pieces<Real>, blocks_of(vertices * channels), kFilterThreads, 0, stream,
                   arrays.segments, contributions, vertices, channels, tiles,
                   static_cast<Real*>(lattice));
  });
  return cudaGetLastError();
}

cudaError_t blur(void* lattice, void* other, const int32_t* neighbours, bool double_precision,
                 int64_t dims, int64_t vertices, int64_t channels, bool reverse,
                 cudaStream_t stream, void** result) {
  const auto axis = [&](int64_t step) -> const int32_t* {
    return step > dims ? nullptr : neighbours + (reverse ? dims - step : step) * vertices * 2;
  };
  with_real(double_precision, [&](auto* type) {
    using Real = std::remove_pointer_t<decltype(type)>;
    for (int64_t step = 0; step <= dims; step += 2) {
      FASTSEG_LAUNCH(blur_axes<Real>, blocks_of(vertices * channels), kFilterThreads, 0, stream,
                     static_cast<const Real*>(lattice), axis(step), axis(step + 1), vertices,
                     channels, static_cast<Real*>(other));
      std::swap(lattice, other);
    }
  });
  *result = lattice;
  return cudaGetLastError();
}

cudaError_t slice(const void* lattice, const int32_t* vertices, const void* barycentric,
                  bool double_precision, int64_t dims, int64_t points, int64_t vertex_count,
                  int64_t channels, cudaStream_t stream, void* values) {
  with_real(double_precision, [&](auto* type) {
    using Real = std::remove_pointer_t<decltype(type)>;
    FASTSEG_LAUNCH(slice_points<Real>, blocks_of(points * channels), kFilterThreads, 0, stream,
                   static_cast<const Real*>(lattice), vertices,
                   static_cast<const Real*>(barycentric), static_cast<int>(dims + 1), points,
                   vertex_count, channels, static_cast<Real*>(values));
  });
  return cudaGetLastError();
}

cudaError_t vertex_products(const void* lattice, const void* values, const int32_t* vertices,
                            bool double_precision, int64_t dims, int64_t points,
                            int64_t vertex_count, int64_t channels, cudaStream_t stream,
                            void* products) {
  with_real(double_precision, [&](auto* type) {
    using Real = std::remove_pointer_t<decltype(type)>;
    FASTSEG_LAUNCH(multiply_vertices<Real>, blocks_of(points * (dims + 1)), kFilterThreads, 0,
                   stream, static_cast<const Real*>(lattice), static_cast<const Real*>(values),
                   vertices, Corners(dims), points, vertex_count, channels,
                   static_cast<Real*>(products));
  });
  return cudaGetLastError();
}

cudaError_t sum_points(const void* values, bool double_precision, int64_t batch, int64_t points,
                       int64_t channels, const Allocate& allocate, cudaStream_t stream,
                       void* sums) {
  const int64_t blocks = (points + kSumPoints - 1) / kSumPoints, columns = batch * channels;
  auto* parts = static_cast<double*>(allocate(blocks * columns * int64_t{sizeof(double)}));
  const auto grid = [](int64_t size) {
    return static_cast<unsigned>(std::min<int64_t>(size, INT32_MAX));
  };
  with_real(double_precision, [&](auto* type) {
    using Real = std::remove_pointer_t<decltype(type)>;
    FASTSEG_LAUNCH(sum_blocks<Real>, grid(blocks * columns), kSumThreads, 0, stream,
                   static_cast<const Real*>(values), points, channels, blocks, columns, parts);
    FASTSEG_LAUNCH(join_blocks<Real>, grid(columns), kSumThreads, 0, stream, parts, blocks, columns,
                   static_cast<Real*>(sums));
  });
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
