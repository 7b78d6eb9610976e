#include <algorithm>
#include <type_traits>

#include "lattice_build_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

unsigned blocks_of(int64_t items, int64_t of_block) {
  return static_cast<unsigned>((items + of_block - 1) / of_block);
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
    FASTSEG_LAUNCH((place_points<Real, kDims>), blocks_of(plan.batch * plan.points, kBuildThreads),
                   kBuildThreads, 0, stream, static_cast<const Real*>(plan.features), scales,
                   plan.batch, plan.points, plan.table, plan.table_size, plan.cells,
                   static_cast<Real*>(plan.barycentric), plan.rank, plan.status);
  });
}

Vertices vertices_of(const LatticePlan& plan) {
  return {plan.cells,        plan.rank, plan.batch, plan.points, static_cast<int>(plan.dims),
          Corners(plan.dims)};
}

// The zeros of a plan: of the numbering, and then of the sort.
int64_t number_words(const LatticePlan& plan) {
  return 1 + blocks_of(plan.contributions(), kNumberTile);
}
int64_t zero_bytes(const LatticePlan& plan) {
  return number_words(plan) * int64_t{sizeof(TileState)} +
         SortSpace::bytes(plan.contributions(), sort_passes(plan.contributions()));
}

template <typename T>
T* array(const Allocate& allocate, int64_t count) {
  return static_cast<T*>(allocate(count * int64_t{sizeof(T)}));
}

void place_lattice(LatticePlan* plan, void* zeros, const Allocate& scratch, cudaStream_t stream) {
  const int64_t contributions = plan->contributions();
  plan->table_size = 32;
  while (2 * plan->table_size < 3 * contributions) plan->table_size *= 2;
  plan->cells = array<int32_t>(scratch, contributions);
  plan->table = array<LatticeSlot>(scratch, plan->table_size);
  plan->numbers = array<int32_t>(scratch, plan->table_size);
  plan->met = array<int64_t>(scratch, contributions);
  auto* slot_of = array<int64_t>(scratch, contributions);
  auto* words = static_cast<TileState*>(zeros);
  plan->sort_space = words + number_words(*plan);
  if (plan->double_precision) {
    launch_place<double>(*plan, stream);
  } else {
    launch_place<float>(*plan, stream);
  }
  FASTSEG_LAUNCH(enter_vertices, blocks_of(contributions, kBuildThreads), kBuildThreads, 0, stream,
                 vertices_of(*plan), plan->status, contributions, plan->table_size, plan->table,
                 slot_of);
  FASTSEG_LAUNCH(number_vertices, blocks_of(contributions, kNumberTile), kNumberThreads, 0, stream,
                 plan->table, slot_of, contributions, words, words + 1, plan->numbers, plan->met,
                 plan->status);
  FASTSEG_LAUNCH(name_vertices, blocks_of(contributions, kSortTile), kSortThreads, 0, stream,
                 slot_of, plan->numbers, contributions, plan->vertices,
                 SortSpace::at(plan->sort_space).digits);
}

}  // namespace

cudaError_t place_lattices(LatticePlan* const* plans, int count, int64_t extra,
                           const Allocate& allocate, const Allocate& scratch, cudaStream_t stream,
                           LatticeStatus** statuses) {
  int64_t bytes = count * int64_t{sizeof(LatticeStatus)} + extra * int64_t{sizeof(TileState)};
  const int64_t heads = bytes;
  for (int k = 0; k < count; ++k) bytes += zero_bytes(*plans[k]);
  auto* zeros = static_cast<unsigned char*>(allocate(bytes));
  const cudaError_t error = cudaMemsetAsync(zeros, 0, static_cast<size_t>(bytes), stream);
  if (error != cudaSuccess) return error;
  *statuses = reinterpret_cast<LatticeStatus*>(zeros);
  zeros += heads;
  for (int k = 0; k < count; ++k) {
    plans[k]->status = *statuses + k;
    place_lattice(plans[k], zeros, scratch, stream);
    zeros += zero_bytes(*plans[k]);
  }
  return cudaGetLastError();
}

cudaError_t link_lattice(const LatticePlan& plan, const Allocate& scratch, cudaStream_t stream,
                         const LatticeLinks& links) {
  const int64_t contributions = plan.contributions();
  const SortArrays arrays = {links.members, array<int32_t>(scratch, contributions),
                             links.contributors, array<int64_t>(scratch, contributions),
                             links.place_of};
  sort_places(plan.vertices, contributions, links.capacity, SortSpace::at(plan.sort_space), arrays,
              stream);
  const int64_t items = std::max(contributions, links.capacity * (plan.dims + 1));
  FASTSEG_LAUNCH(link_vertices, blocks_of(items, kBuildThreads), kBuildThreads, 0, stream,
                 vertices_of(plan), plan.table, plan.table_size, plan.numbers, plan.met,
                 links.members, contributions, plan.status, links.capacity, links.segments,
                 links.neighbours);
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
