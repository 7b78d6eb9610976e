#include <algorithm>
#include <cmath>

#include "mean_field_cuda.h"
#include "mean_field_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kFieldThreads - 1) / kFieldThreads);
}

template <typename T>
T* array(const Allocate& allocate, int64_t count) {
  return static_cast<T*>(allocate(count * int64_t{sizeof(T)}));
}

void transpose(const float* from, int64_t batch, int64_t rows, int64_t columns, cudaStream_t stream,
               float* to) {
  const auto tiles = [](int64_t size) {
    return static_cast<unsigned>((size + kTransposeSide - 1) / kTransposeSide);
  };
  const unsigned blocks = tiles(columns) * tiles(rows) * static_cast<unsigned>(batch);
  FASTSEG_LAUNCH(transpose_tiles, blocks, kTransposeSide * kTransposeRows, 0, stream, from, rows,
                 columns, tiles(columns), tiles(rows), to);
}

// Splats (P, L) rows with the given weights and blurs; the blurred lattice.
cudaError_t splat_and_blur(const FieldKernel& kernel, const float* rows, const float* weights,
                           int64_t channels, cudaStream_t stream, float* lattice, float* other,
                           float** blurred) {
  const int64_t dims = kernel.plan.dims;
  splat(rows, weights, kernel.segments, kernel.contributors, kernel.plan.contributions(), false,
        dims, kernel.vertices, channels, stream, lattice);
  void* result = nullptr;
  const cudaError_t error = blur(lattice, other, kernel.neighbours, false, dims, kernel.vertices,
                                 channels, false, stream, &result);
  *blurred = static_cast<float*>(result);
  return error;
}

// The filter of ones, (P), without alpha.
void filter_ones(const FieldKernel& kernel, const Allocate& allocate, cudaStream_t stream,
                 float* filtered) {
  const LatticePlan& plan = kernel.plan;
  const int64_t pixels = plan.batch * plan.points;
  const auto* weights = static_cast<const float*>(plan.barycentric);
  float* lattice = array<float>(allocate, kernel.vertices);
  float* other = array<float>(allocate, kernel.vertices);
  float* blurred = nullptr;
  FASTSEG_LAUNCH(fill_ones, blocks_of(pixels), kFieldThreads, 0, stream, filtered, pixels);
  splat_and_blur(kernel, filtered, weights, 1, stream, lattice, other, &blurred);
  slice(blurred, plan.vertices, weights, false, plan.dims, pixels, kernel.vertices, 1, stream,
        filtered);
}

void launch_update(const float* base, float sign, const FieldMessages& messages, const float* q,
                   int64_t pixels, int64_t labels, bool last, cudaStream_t stream, float* result) {
  const auto launch = [&](auto kernel, int lanes) {
    FASTSEG_LAUNCH(kernel, blocks_of(pixels * lanes), kFieldThreads, 0, stream, base, sign,
                   messages, q, pixels, labels, last, result);
  };
  if (labels <= 2) return launch(update_pixels<2>, 2);
  if (labels <= 4) return launch(update_pixels<4>, 4);
  if (labels <= 8) return launch(update_pixels<8>, 8);
  if (labels <= 16) return launch(update_pixels<16>, 16);
  launch(update_pixels<32>, 32);
}

// The message of one kernel as the update reads it: splat, blur and, where it is dense, transform.
FieldMessage message_of(const FieldKernel& kernel, const float* q, int64_t labels,
                        cudaStream_t stream) {
  float* blurred = nullptr;
  splat_and_blur(kernel, q, kernel.splat_weights, labels, stream, kernel.lattice, kernel.other,
                 &blurred);
  if (kernel.transform_size > labels) {
    float* transformed = blurred == kernel.lattice ? kernel.other : kernel.lattice;
    FASTSEG_LAUNCH(transform_rows, blocks_of(kernel.vertices * labels), kFieldThreads, 0, stream,
                   blurred, kernel.transform, kernel.vertices, labels, transformed);
    blurred = transformed;
  }
  return {blurred,
          kernel.plan.vertices,
          kernel.slice_weights,
          kernel.share,
          kernel.transform,
          kernel.transform_size,
          static_cast<int>(kernel.plan.dims + 1)};
}

}  // namespace

cudaError_t place_kernel(const float* features, int64_t batch, int64_t dims, int64_t points,
                         const Allocate& allocate, cudaStream_t stream, FieldKernel* kernel) {
  LatticePlan& plan = kernel->plan;
  plan = {};
  plan.features = features;
  plan.batch = batch;
  plan.dims = dims;
  plan.points = points;
  plan.vertices = array<int32_t>(allocate, plan.contributions());
  plan.barycentric = array<float>(allocate, plan.contributions());
  plan.rank = array<int8_t>(allocate, plan.contributions());
  return place_lattice(&plan, allocate, stream);
}

cudaError_t finish_kernel(int64_t vertices, FieldNormalization normalization, bool self_message,
                          int64_t labels, const Allocate& allocate, cudaStream_t stream,
                          FieldKernel* kernel) {
  const LatticePlan& plan = kernel->plan;
  const int64_t pixels = plan.batch * plan.points, corners = plan.dims + 1;
  kernel->vertices = vertices;
  kernel->neighbours = array<int32_t>(allocate, corners * vertices * 2);
  kernel->segments = array<int64_t>(allocate, vertices + 1);
  kernel->contributors = array<int64_t>(allocate, plan.contributions());
  kernel->splat_weights = array<float>(allocate, plan.contributions());
  kernel->slice_weights = array<float>(allocate, plan.contributions());
  kernel->share = self_message ? nullptr : array<float>(allocate, pixels);
  kernel->lattice = array<float>(allocate, vertices * labels);
  kernel->other = array<float>(allocate, vertices * labels);
  link_lattice(plan, vertices, allocate, stream, kernel->neighbours, kernel->segments,
               kernel->contributors);
  float* filtered = array<float>(allocate, pixels);
  float* means = array<float>(allocate, plan.batch);
  filter_ones(*kernel, allocate, stream, filtered);
  FASTSEG_LAUNCH(mean_of_images, static_cast<unsigned>(plan.batch), kFieldThreads, 0, stream,
                 filtered, plan.points, means);
  const float alpha = 1.0f / (1.0f + std::ldexp(1.0f, -static_cast<int>(plan.dims)));
  FASTSEG_LAUNCH(normalize_weights, blocks_of(pixels), kFieldThreads, 0, stream,
                 static_cast<const float*>(plan.barycentric), filtered, means, normalization,
                 plan.points, pixels, static_cast<int>(corners), alpha, kernel->splat_weights,
                 kernel->slice_weights, kernel->share);
  return cudaGetLastError();
}

cudaError_t infer(const float* unary, const std::vector<FieldKernel>& kernels, int64_t batch,
                  int64_t labels, int64_t points, int64_t iterations, const Allocate& allocate,
                  cudaStream_t stream, float* q) {
  const int64_t pixels = batch * points, size = pixels * labels;
  float* energy = array<float>(allocate, size);  // (P, L), as what follows
  float* current = array<float>(allocate, size);
  float* next = array<float>(allocate, size);
  const int64_t count = static_cast<int64_t>(kernels.size());
  float* partial = count > kFusedKernels ? array<float>(allocate, size) : nullptr;
  transpose(unary, batch, labels, points, stream, energy);
  launch_update(energy, -1, {0, {}}, energy, pixels, labels, true, stream, current);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    const float* base = energy;
    int64_t done = 0;
    do {
      FieldMessages messages = {};
      for (; messages.count < kFusedKernels && done < count; ++done) {
        messages.of[messages.count++] = message_of(kernels[done], current, labels, stream);
      }
      const bool last = done == count;
      launch_update(base, base == energy ? -1 : 1, messages, current, pixels, labels, last, stream,
                    last ? next : partial);
      base = partial;
    } while (done < count);
    std::swap(current, next);
  }
  transpose(current, batch, points, labels, stream, q);
  return cudaGetLastError();
}

cudaError_t check_field(const float* unary, const std::vector<FieldKernel>& kernels, int64_t batch,
                        int64_t labels, int64_t points, cudaStream_t stream, int32_t* flags) {
  const int64_t pixels = batch * points;
  cudaMemsetAsync(flags, 0, (1 + kernels.size()) * sizeof(int32_t), stream);
  FASTSEG_LAUNCH(find_unusable, blocks_of(pixels), kFieldThreads, 0, stream, unary, labels, points,
                 pixels, flags);
  for (size_t k = 0; k < kernels.size(); ++k) {
    FASTSEG_LAUNCH(find_not_finite, blocks_of(kernels[k].transform_size), kFieldThreads, 0, stream,
                   kernels[k].transform, kernels[k].transform_size, flags + 1 + k);
  }
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
