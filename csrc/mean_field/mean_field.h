#pragma once

#include <cstdint>
#include <vector>

#include "../common/check.h"
#include "../common/parallel.h"

// Mean-field inference in a fully connected CRF (Kraehenbuehl and Koltun 2011, algorithm 1):
//
//   Q = softmax(-U);  repeat:  Q = softmax(-U + sum_k A_k F_k Q)
//
// F_k is a normalised Gaussian filter over all pixels and A_k, the `transform`, a linear map of
// the labels: minus the compatibility times the kernel's weights. Labels L, pixels N.
namespace fastseg {

enum class Normalization { kNone, kMean, kBefore, kAfter, kSymmetric };

struct KernelSpec {
  const float* features;  // (D, N), standard deviation one
  int64_t dims;           // D
  Normalization normalization;
  const float* transform;  // scalar: one value, diagonal: (L), dense: (L, L) row-major
  int64_t transform_size;  // 1, L or L * L; 1 and L mean the same where L is one
  bool self_message;       // false: a pixel sends no message to itself
};

// The lattices of one image, built once, and inference over them. Not for two threads at once.
class MeanField {
 public:
  virtual ~MeanField() = default;

  // Builds the kernel's lattice. ValueError for features that are not finite or too large.
  virtual Error add_kernel(const KernelSpec& spec, Parallel parallel) = 0;

  // q (L, N) after `iterations` >= 0 updates that start from softmax(-unary), or from `initial`
  // (L, N) where it is given. unary (L, N). ValueError for a unary that is not finite.
  virtual Error run(const float* unary, const float* initial, int64_t iterations, Parallel parallel,
                    float* q) = 0;

  // message (L, N) = sum_k A_k F_k q: what one update adds to -unary.
  virtual Error message(const float* q, Parallel parallel, float* message) = 0;
};

struct MeanFieldKernels {
  // spatial: sizes of the image, last one fastest ({H, W}, {D, H, W} or {N}); N is their product.
  // It only orders the work: any factorisation of N gives the same result up to rounding.
  MeanField* (*create)(const std::vector<int64_t>& spatial, int64_t labels);
};

}  // namespace fastseg
