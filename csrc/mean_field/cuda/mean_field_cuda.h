#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "../../permutohedral/cuda/permutohedral_cuda.h"

// Mean-field inference on the GPU: contract between the launchers and the door that leads to them.
// What is built is built once; the updates then allocate nothing and wait for nothing. Letters as
// in ../mean_field.h, P = B N pixels of a batch.
namespace fastseg {
namespace cuda {

enum class FieldNormalization { kNone, kMean, kBefore, kAfter, kSymmetric };

// A Gaussian kernel of the whole batch, ready for updates; the arrays are the device's.
struct FieldKernel {
  LatticePlan plan;
  int64_t vertices = 0;  // M
  int32_t* neighbours = nullptr;
  int64_t *segments = nullptr, *contributors = nullptr;
  float *splat_weights = nullptr, *slice_weights = nullptr;  // (P, D + 1)
  float* share = nullptr;            // (P): what a pixel hears of itself; null where it may
  const float* transform = nullptr;  // as KernelSpec's
  int64_t transform_size = 0;
  float *lattice = nullptr, *other = nullptr;  // (M, L)
};

// Places the points of features (B, D, N); the host then reads plan.status.
cudaError_t place_kernel(const float* features, int64_t batch, int64_t dims, int64_t points,
                         const Allocate& allocate, cudaStream_t stream, FieldKernel* kernel);
// Links the lattice of M vertices, and puts the normalisation into the weights.
cudaError_t finish_kernel(int64_t vertices, FieldNormalization normalization, bool self_message,
                          int64_t labels, const Allocate& allocate, cudaStream_t stream,
                          FieldKernel* kernel);

// unary and q (B, L, N).
cudaError_t infer(const float* unary, const std::vector<FieldKernel>& kernels, int64_t batch,
                  int64_t labels, int64_t points, int64_t iterations, const Allocate& allocate,
                  cudaStream_t stream, float* q);

// Flags, on the device: [0] becomes 1 for a unary that cannot be used, [1 + k] for a transform that
// is not finite.
cudaError_t check_field(const float* unary, const std::vector<FieldKernel>& kernels, int64_t batch,
                        int64_t labels, int64_t points, cudaStream_t stream, int32_t* flags);

}  // namespace cuda
}  // namespace fastseg
