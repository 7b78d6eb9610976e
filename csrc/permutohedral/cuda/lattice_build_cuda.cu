#include "../../common/radix_sort.cuh"
#include "lattice_build_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kBuildThreads - 1) / kBuildThreads);
}

// launch(integral constant) for the number of dimensions.
template <int kDims = 1, typename Launch>
void with_dims(int64_t dims, Launch&& launch) {
  if (dims == kDims) return launch(std::integral_constant<int, kDims>());
  if constexpr (kDims < kLargestDims) with_dims<kDims + 1>(dims, launch);
}

template <typename Real>
void launch_place(const LatticePlan& plan, cudaStream_t stream) {
  FeatureScales scales;
  for (int d = 0; d < plan.dims; ++d) scales.of[d] = feature_scale(d, static_cast<int>(plan.dims));
  with_dims(plan.dims, [&](auto dims) {
    constexpr int kDims = decltype(dims)::value;
    FASTSEG_LAUNCH((place_points<Real, kDims>), blocks_of(plan.batch * plan.points), kBuildThreads,
                   0, stream, static_cast<const Real*>(plan.features), scales, plan.batch,
                   plan.points, plan.cells, static_cast<Real*>(plan.barycentric), plan.rank,
                   plan.status);
  });
}

Vertices vertices_of(const LatticePlan& plan) {
  return {plan.cells, plan.rank, plan.points, static_cast<int>(plan.dims)};
}

}  // namespace

cudaError_t place_lattice(LatticePlan* plan, const Allocate& allocate, cudaStream_t stream) {
  const int64_t contributions = plan->contributions();
  plan->table_size = 32;
  while (plan->table_size < 2 * contributions) plan->table_size *= 2;
  const auto numbers = [&](int64_t count) {
    return static_cast<int64_t*>(allocate(count * int64_t{sizeof(int64_t)}));
  };
  plan->cells = static_cast<int32_t*>(allocate(contributions * int64_t{sizeof(int32_t)}));
  plan->status = static_cast<LatticeStatus*>(allocate(sizeof(LatticeStatus)));
  plan->slots = numbers(plan->table_size);
  plan->number_of = numbers(contributions);
  int64_t* owners = numbers(plan->table_size);
  int64_t* slot_of = numbers(contributions);

  FASTSEG_LAUNCH(begin_status, 1, 32, 0, stream, plan->status);
  if (plan->double_precision) {
    launch_place<double>(*plan, stream);
  } else {
    launch_place<float>(*plan, stream);
  }
  const unsigned blocks = blocks_of(contributions);
  FASTSEG_LAUNCH(clear_slots, blocks_of(plan->table_size), kBuildThreads, 0, stream, owners,
                 plan->slots, plan->table_size);
  FASTSEG_LAUNCH(enter_vertices, blocks, kBuildThreads, 0, stream, vertices_of(*plan),
                 contributions, plan->table_size, owners, plan->slots, slot_of);
  FASTSEG_LAUNCH(mark_first, blocks, kBuildThreads, 0, stream, plan->slots, contributions, slot_of,
                 plan->number_of);
  const int64_t* total = exclusive_scan(plan->number_of, contributions, allocate, stream);
  FASTSEG_LAUNCH(number_vertices, blocks, kBuildThreads, 0, stream, slot_of, plan->number_of, total,
                 contributions, plan->vertices, plan->status);
  return cudaGetLastError();
}

cudaError_t link_lattice(const LatticePlan& plan, int64_t vertices, const Allocate& allocate,
                         cudaStream_t stream, int32_t* neighbours, int64_t* segments,
                         int64_t* contributors) {
  const int64_t contributions = plan.contributions();
  FASTSEG_LAUNCH(find_neighbours, blocks_of(contributions * (plan.dims + 1)), kBuildThreads, 0,
                 stream, vertices_of(plan), plan.vertices, plan.slots, plan.number_of,
                 contributions, plan.table_size, vertices, neighbours);
  auto* sorted = static_cast<int32_t*>(allocate(contributions * int64_t{sizeof(int32_t)}));
  sort_places(plan.vertices, contributions, vertices, allocate, stream, sorted, contributors);
  FASTSEG_LAUNCH(find_segments, blocks_of(contributions), kBuildThreads, 0, stream, sorted,
                 contributions, vertices, segments);
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
