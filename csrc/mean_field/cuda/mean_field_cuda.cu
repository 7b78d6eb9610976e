#include <algorithm>
#include <cmath>

#include "mean_field_cuda.h"
#include "mean_field_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

// Blocks of a launch whose threads take turns: as many as have something to do, and no more than
// these where that is not known beforehand.
constexpr int64_t kTurningBlocks = int64_t{1} << 14;

unsigned blocks_of(int64_t threads, int64_t most = INT32_MAX) {
  return static_cast<unsigned>(std::min((threads + kFieldThreads - 1) / kFieldThreads, most));
}

template <typename T>
T* array(const Allocate& allocate, int64_t count) {
  return static_cast<T*>(allocate(count * int64_t{sizeof(T)}));
}

// use(null pointer of the type that is stored).
template <typename Use>
void with_storage(FieldStorage storage, Use&& use) {
  switch (storage) {
    case FieldStorage::kFloat:
      return use(static_cast<float*>(nullptr));
    case FieldStorage::kHalf:
      return use(static_cast<__half*>(nullptr));
    case FieldStorage::kBFloat16:
      return use(static_cast<__nv_bfloat16*>(nullptr));
  }
}

bool is_dense(const Field& field, const FieldKernel& kernel) {
  return kernel.transform_size > field.labels;
}

template <typename S>
void transpose(const Field& field, const void* from, int64_t rows, int64_t columns, void* to) {
  const auto tiles = [](int64_t size) {
    return static_cast<unsigned>((size + kTransposeSide - 1) / kTransposeSide);
  };
  const unsigned blocks = tiles(columns) * tiles(rows) * static_cast<unsigned>(field.batch);
  FASTSEG_LAUNCH(transpose_tiles<S>, blocks, kTransposeSide * kTransposeRows, 0, field.stream,
                 static_cast<const S*>(from), rows, columns, tiles(columns), tiles(rows),
                 static_cast<S*>(to));
}

// Some of the field's Gaussian kernels, on their way through splat and blur: of `channels`
// channels, in two arrays each.
template <typename S>
struct Passage {
  const Field& field;
  int64_t first;
  int count;
  int64_t channels;
  void *in[kFusedKernels], *other[kFusedKernels];

  const FieldKernel& kernel(int k) const { return field.kernels[first + k]; }

  FieldLattice lattice(int k, int64_t step) const {
    const FieldKernel& own = kernel(k);
    const auto axis = [&](int64_t number) -> const int32_t* {
      if (number < 0 || number > own.dims) return nullptr;
      return own.links.neighbours + number * own.links.capacity * 2;
    };
    return {own.plan.status,
            own.links.segments,
            own.links.contributors,
            own.links.members,
            static_cast<const float*>(own.plan.barycentric),
            own.edges,
            own.mass,
            axis(step),
            axis(step + 1),
            own.plan.contributions(),
            own.tiles,
            in[k],
            step < 0 ? in[k] : other[k]};
  }

  // The lattices that have axis `step` of the blur, or all for the splat at -1; and at most so many
  // rows.
  FieldLattices lattices(int64_t step, int64_t* rows) const {
    FieldLattices found = {};
    *rows = 0;
    for (int k = 0; k < count; ++k) {
      if (step > kernel(k).dims) continue;
      found.of[found.count++] = lattice(k, step);
      *rows +=
          kernel(k).links.capacity + (step < 0 ? piece_tiles(kernel(k).plan.contributions()) : 0);
    }
    return found;
  }

  void run(const S* q) {
    int64_t rows = 0, most_dims = 0;
    const FieldLattices all = lattices(-1, &rows);
    FASTSEG_LAUNCH(splat_rows<S>, blocks_of(rows * channels, kTurningBlocks), kFilterThreads, 0,
                   field.stream, all, q, channels);
    FASTSEG_LAUNCH(join_rows<S>, blocks_of(rows * channels, kTurningBlocks), kFilterThreads, 0,
                   field.stream, all, channels);
    for (int k = 0; k < count; ++k) most_dims = std::max(most_dims, kernel(k).dims);
    for (int64_t step = 0; step <= most_dims; step += 2) {
      const FieldLattices some = lattices(step, &rows);
      FASTSEG_LAUNCH(blur_rows<S>, blocks_of(rows * channels, kTurningBlocks), kFilterThreads, 0,
                     field.stream, some, channels);
      for (int k = 0; k < count; ++k) {
        if (step <= kernel(k).dims) std::swap(in[k], other[k]);
      }
    }
  }
};

// As many from `first` on as one launch takes.
int fused_from(const Field& field, int64_t first) {
  return static_cast<int>(
      std::min<int64_t>(kFusedKernels, static_cast<int64_t>(field.kernels.size()) - first));
}

template <typename S>
void launch_update(const Field& field, const FieldUpdate<S>& update) {
  const auto launch = [&](auto kernel, int lanes) {
    FASTSEG_LAUNCH(kernel, blocks_of(update.pixels * lanes), kFieldThreads, 0, field.stream,
                   update);
  };
  if (field.labels <= 2) return launch(update_pixels<S, 2>, 2);
  if (field.labels <= 4) return launch(update_pixels<S, 4>, 4);
  if (field.labels <= 8) return launch(update_pixels<S, 8>, 8);
  if (field.labels <= 16) return launch(update_pixels<S, 16>, 16);
  launch(update_pixels<S, 32>, 32);
}

// An update from `current` to `next` without messages.
template <typename S>
FieldUpdate<S> update_of(const Field& field) {
  FieldUpdate<S> update = {};
  update.energy = static_cast<const S*>(field.energy);
  update.q = static_cast<const S*>(field.current);
  update.pixels = field.pixels();
  update.labels = field.labels;
  update.last = true;
  update.logits = field.logits ? field.logits : static_cast<float*>(field.next);
  update.result = static_cast<S*>(field.next);
  return update;
}

// The messages of some kernels as the update reads them: splat, blur and, where it is dense,
// transform.
template <typename S>
FieldMessages<S> messages_of(const Field& field, int64_t first) {
  Passage<S> passage = {field, first, fused_from(field, first), field.labels, {}, {}};
  for (int k = 0; k < passage.count; ++k) {
    passage.in[k] = passage.kernel(k).lattice;
    passage.other[k] = passage.kernel(k).other;
  }
  passage.run(static_cast<const S*>(field.current));
  FieldMessages<S> messages = {};
  for (int k = 0; k < passage.count; ++k) {
    const FieldKernel& kernel = passage.kernel(k);
    const auto* blurred = static_cast<const S*>(passage.in[k]);
    if (kernel.transformed) {
      FASTSEG_LAUNCH(transform_rows<S>,
                     blocks_of(kernel.links.capacity * field.labels, kTurningBlocks), kFieldThreads,
                     0, field.stream, blurred, kernel.transform, kernel.plan.status, field.labels,
                     kernel.transformed);
    }
    messages.of[messages.count++] = {
        blurred,      kernel.transformed, kernel.plan.vertices,  kernel.slice_weights,
        kernel.share, kernel.transform,   kernel.transform_size, static_cast<int>(kernel.dims + 1)};
  }
  return messages;
}

template <typename S>
void update_once(Field* field) {
  const int64_t count = static_cast<int64_t>(field->kernels.size());
  FieldUpdate<S> update = update_of<S>(*field);
  int64_t done = 0;
  do {
    update.messages = messages_of<S>(*field, done);
    done += update.messages.count;
    update.last = done == count;
    launch_update(*field, update);
    update.base = update.logits;
  } while (done < count);
  std::swap(field->current, field->next);
}

void check_transforms(const Field& field, unsigned long long* unusable) {
  for (int64_t first = 0; first < static_cast<int64_t>(field.kernels.size());
       first += kFusedKernels) {
    FieldTransforms transforms = {fused_from(field, first), {}, {}, unusable + first};
    int64_t largest = 1;
    for (int k = 0; k < transforms.count; ++k) {
      transforms.values[k] = field.kernels[first + k].transform;
      transforms.sizes[k] = field.kernels[first + k].transform_size;
      largest = std::max(largest, transforms.sizes[k]);
    }
    FASTSEG_LAUNCH(find_not_finite, blocks_of(largest), kFieldThreads, 0, field.stream, transforms);
  }
}

void allocate_links(const Field& field, int64_t capacity, FieldKernel* kernel) {
  const LatticePlan& plan = kernel->plan;
  const int64_t contributions = plan.contributions();
  kernel->links = {capacity,
                   array<int32_t>(field.allocate, (plan.dims + 1) * capacity * 2),
                   array<int64_t>(field.allocate, capacity + 1),
                   array<int64_t>(field.scratch, contributions),
                   array<int32_t>(field.allocate, contributions),
                   array<int64_t>(field.scratch, contributions)};
  kernel->edges = array<FieldEdge>(field.allocate, contributions);
  kernel->slice_weights = array<float>(field.allocate, contributions);
  if (!field.self_message) kernel->share = array<float>(field.allocate, field.pixels());
}

// What the updates write.
void allocate_rows(const Field& field, FieldKernel* kernel) {
  const int64_t size = kernel->links.capacity * field.labels;
  const int64_t bytes = field.storage == FieldStorage::kFloat ? 4 : 2;
  kernel->lattice = field.allocate(size * bytes);
  kernel->other = field.allocate(size * bytes);
  kernel->tiles =
      array<float>(field.allocate, piece_tiles(kernel->plan.contributions()) * field.labels);
  if (is_dense(field, *kernel)) kernel->transformed = array<float>(field.allocate, size);
}

// The blurred splat of ones of each kernel.
void weigh_vertices(Field* field) {
  const int64_t count = static_cast<int64_t>(field->kernels.size());
  for (int64_t first = 0; first < count; first += kFusedKernels) {
    Passage<float> passage = {*field, first, fused_from(*field, first), 1, {}, {}};
    for (int k = 0; k < passage.count; ++k) {
      FieldKernel& kernel = field->kernels[first + k];
      kernel.tiles = array<float>(field->scratch, piece_tiles(kernel.plan.contributions()));
      passage.in[k] = array<float>(field->allocate, kernel.links.capacity);
      passage.other[k] = array<float>(field->allocate, kernel.links.capacity);
    }
    passage.run(nullptr);
    for (int k = 0; k < passage.count; ++k) {
      field->kernels[first + k].mass = static_cast<float*>(passage.in[k]);
    }
  }
}

// The mean of each image's filter of ones, without alpha.
const float* means_of(const Field& field, const FieldKernel& kernel) {
  auto* filtered = array<float>(field.scratch, field.pixels());
  auto* means = array<float>(field.scratch, field.batch);
  slice(kernel.mass, kernel.plan.vertices, kernel.plan.barycentric, false, kernel.dims,
        field.pixels(), kernel.links.capacity, 1, field.stream, filtered);
  FASTSEG_LAUNCH(mean_of_images, static_cast<unsigned>(field.batch), kMeanThreads, 0, field.stream,
                 filtered, field.points, means);
  return means;
}

template <typename S>
void normalize(const Field& field, const FieldKernel& kernel) {
  const bool mean = kernel.normalization == FieldNormalization::kMean;
  const FieldWeights weights = {kernel.plan.status,
                                static_cast<const float*>(kernel.plan.barycentric),
                                kernel.mass,
                                mean ? means_of(field, kernel) : nullptr,
                                kernel.plan.vertices,
                                kernel.links.place_of,
                                kernel.normalization,
                                field.points,
                                field.pixels(),
                                static_cast<int>(kernel.dims + 1),
                                1.0f / (1.0f + std::ldexp(1.0f, -static_cast<int>(kernel.dims))),
                                kernel.edges,
                                kernel.slice_weights,
                                kernel.share};
  FASTSEG_LAUNCH(normalize_weights<S>, blocks_of(field.pixels()), kFieldThreads, 0, field.stream,
                 weights);
}

void place_kernel(const Field& field, FieldKernel* kernel) {
  LatticePlan& plan = kernel->plan;
  plan = {};
  plan.features = kernel->features;
  plan.batch = field.batch;
  plan.dims = kernel->dims;
  plan.points = field.points;
  plan.vertices = array<int32_t>(field.allocate, plan.contributions());
  plan.barycentric = array<float>(field.scratch, plan.contributions());
  plan.rank = array<int8_t>(field.scratch, plan.contributions());
}

}  // namespace

cudaError_t begin_field(Field* field, FieldStatus* status) {
  const int64_t count = static_cast<int64_t>(field->kernels.size());
  const int64_t size = field->pixels() * field->labels, extra = 1 + count;
  std::vector<LatticePlan*> plans;
  for (FieldKernel& kernel : field->kernels) {
    place_kernel(*field, &kernel);
    plans.push_back(&kernel.plan);
  }
  LatticeStatus* statuses = nullptr;
  const cudaError_t error =
      place_lattices(plans.data(), static_cast<int>(count), extra, field->allocate, field->scratch,
                     field->stream, &statuses);
  if (error != cudaSuccess) return error;
  auto* unusable = reinterpret_cast<unsigned long long*>(statuses + count);
  *status = {statuses, count * int64_t{sizeof(LatticeStatus)} + extra * int64_t{sizeof(uint64_t)}};
  check_transforms(*field, unusable + 1);
  const bool halves = field->storage != FieldStorage::kFloat;
  if (count > kFusedKernels || (halves && field->labels > 32)) {
    field->logits = array<float>(field->allocate, size);
  }
  with_storage(field->storage, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    field->energy = array<S>(field->allocate, size);
    field->current = array<S>(field->allocate, size);
    field->next = array<S>(field->allocate, size);
    transpose<S>(*field, field->unary, field->labels, field->points, field->energy);
    FieldUpdate<S> update = update_of<S>(*field);
    update.unusable = unusable;
    launch_update(*field, update);
    std::swap(field->current, field->next);
  });
  return cudaGetLastError();
}

cudaError_t link_field(Field* field, const std::vector<int64_t>& capacities) {
  for (size_t k = 0; k < capacities.size(); ++k) {
    FieldKernel& kernel = field->kernels[k];
    allocate_links(*field, capacities[k], &kernel);
    const cudaError_t error =
        link_lattice(kernel.plan, field->scratch, field->stream, kernel.links);
    if (error != cudaSuccess) return error;
  }
  weigh_vertices(field);
  with_storage(field->storage, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for (const FieldKernel& kernel : field->kernels) normalize<S>(*field, kernel);
  });
  return cudaGetLastError();
}

cudaError_t infer(Field* field, int64_t iterations, void* q) {
  with_storage(field->storage, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    for (FieldKernel& kernel : field->kernels) {
      if (iterations > 0) allocate_rows(*field, &kernel);
    }
    // Without messages an update gives what it was given.
    for (int64_t i = 0; i < iterations && !field->kernels.empty(); ++i) update_once<S>(field);
    transpose<S>(*field, field->current, field->points, field->labels, q);
  });
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
