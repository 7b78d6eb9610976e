#pragma once

#include <cstdint>

#include "../common/parallel.h"
#include "score_layout.h"

// Bilinear upsampling, alone and fused with what follows it: contract between the kernels and the
// door that leads to them.
//
// Letters: B images, C channels (classes), h x w source samples, H x W output pixels.
namespace fastseg {

// The cross-entropy of upsampled logits. The loss of a pixel is omega (logsumexp(v) - v[label]),
// omega = weight[label] pixel_weight, and zero where the label is ignore_index.
struct CrossEntropyTask {
  const void* logits;        // (B, C, h, w), type and layout beside it
  const void* labels;        // (B, H, W), contiguous
  bool byte_labels;          // uint8, else int64
  const void* weight;        // (C) or null; float, double for double logits
  const void* pixel_weight;  // (B, H, W), contiguous, or null; likewise
  int64_t ignore_index;
  Reduction reduction;
  // The gradient that reached the loss: of each pixel, likewise typed and (B, H, W), for kNone;
  // a number otherwise.
  const void* grad_map;
  double grad_scalar;
  // Results; null where not asked for.
  void* loss_map;  // (B, H, W), float, double for double logits
  void* grad;      // (B, C, h, w), type and layout of the logits
  bool grad_wide;  // grad is float for half precision, which would lose a mean over many pixels
};

struct CrossEntropySums {
  double loss, weight;  // sums of the losses and of omega over the pixels that are not ignored
  int64_t counted;      // how many these are
  int64_t wrong;        // flat place of the first label that is none, or -1
};

// CPU entry points of one instruction set. `layout` holds for all score arrays of a call.
struct BilinearUpsampleKernels {
  // output (B, C, H, W).
  void (*upsample)(const void* input, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                   Parallel parallel, void* output);
  // The transpose: grad (B, C, H, W) to grad_input (B, C, h, w).
  void (*upsample_backward)(const void* grad, const ScoreLayout& layout,
                            const UpsampleGeometry& geometry, Parallel parallel, void* grad_input);
  // labels (B, H, W): the class whose upsampled logit is largest, the lowest of equal ones, and
  // the first NaN before all others; uint8 where byte_labels, else int64.
  void (*argmax)(const void* logits, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                 bool byte_labels, Parallel parallel, void* labels);
  // probs (B, C, H, W).
  void (*softmax)(const void* logits, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                  Parallel parallel, void* probs);
  // grad and probs (B, C, H, W) to grad_logits (B, C, h, w).
  void (*softmax_backward)(const void* grad, const void* probs, const ScoreLayout& layout,
                           const UpsampleGeometry& geometry, Parallel parallel, void* grad_logits);
  CrossEntropySums (*cross_entropy)(const CrossEntropyTask& task, const ScoreLayout& layout,
                                    const UpsampleGeometry& geometry, Parallel parallel);
};

}  // namespace fastseg
