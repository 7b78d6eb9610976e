#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "../../permutohedral/cuda/permutohedral_cuda.h"

// Mean-field inference on the GPU: contract between the launchers and the door that leads to them.
// What is built is built once, in memory that the updates' arrays may then take; the updates
// themselves allocate nothing and wait for nothing. Letters as in ../mean_field.h, P = B N pixels
// of a batch.
namespace fastseg {
namespace cuda {

enum class FieldNormalization { kNone, kMean, kBefore, kAfter, kSymmetric };

// What the unary, Q and the lattices' rows are stored as; the arithmetic is that of float.
enum class FieldStorage { kFloat, kHalf, kBFloat16 };

constexpr int64_t kLargestPixels = int64_t{1} << 32;

// One contribution of the splat, in the order of the vertices.
struct FieldEdge {
  uint32_t pixel;
  float weight;
};

// A Gaussian kernel of the whole batch; the arrays are the device's.
struct FieldKernel {
  const float* features = nullptr;  // (B, D, N)
  int64_t dims = 0;
  FieldNormalization normalization = FieldNormalization::kNone;
  const float* transform = nullptr;  // as KernelSpec's
  int64_t transform_size = 0;

  LatticePlan plan;
  LatticeLinks links;
  FieldEdge* edges = nullptr;      // (P (D + 1))
  float* slice_weights = nullptr;  // (P, D + 1)
  float* share = nullptr;          // (P): what a pixel hears of itself; null where it may
  float* mass = nullptr;           // (M): the blurred splat of ones
  float* tiles = nullptr;          // (piece_tiles, L); while mass is made (piece_tiles, 1)
  void *lattice = nullptr, *other = nullptr;  // (M, L)
  float* transformed = nullptr;               // (M, L), where the transform is dense
};

struct Field {
  FieldStorage storage;
  int64_t batch, labels, points;
  bool self_message;
  const void* unary;  // (B, L, N)
  std::vector<FieldKernel> kernels;
  Allocate allocate;
  Allocate scratch;  // for begin_field and link_field, and not read after them
  cudaStream_t stream;

  void *energy = nullptr, *current = nullptr, *next = nullptr;  // (P, L)
  float* logits = nullptr;  // (P, L), where they cannot lie in `next`

  int64_t pixels() const { return batch * points; }
};

// What the host reads back, in this order: a LatticeStatus for each kernel, then words that are not
// zero for a unary that cannot be used and, one for each kernel, a transform that is not finite.
struct FieldStatus {
  const void* on_device;
  int64_t bytes;
};

// Places the points of all kernels, and makes softmax(-unary).
cudaError_t begin_field(Field* field, FieldStatus* status);
// Links the lattice of `capacity` vertices or fewer of each kernel, and puts the normalisations
// into the weights. Those of unusable features are NaN.
cudaError_t link_field(Field* field, const std::vector<int64_t>& capacities);
// q (B, L, N) after so many updates.
cudaError_t infer(Field* field, int64_t iterations, void* q);

}  // namespace cuda
}  // namespace fastseg
