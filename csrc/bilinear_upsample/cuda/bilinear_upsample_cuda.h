#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../score_layout.h"

// Bilinear upsampling on the GPU: contract between the launchers and the door that leads to them.
//
// All pointers are to memory of the current device, all work is put on `stream`, and nothing waits
// for it. Results are the same bits in every run. `scratch` is what scratch_bytes() says, aligned
// to 16 bytes; it may be freed in the order of the stream. Layouts, types and letters are those of
// ../bilinear_upsample.h.
namespace fastseg {
namespace cuda {

int64_t upsample_scratch_bytes(const UpsampleGeometry& geometry);
cudaError_t upsample(const void* input, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                     void* scratch, cudaStream_t stream, void* output);
cudaError_t upsample_backward(const void* grad, const ScoreLayout& layout,
                              const UpsampleGeometry& geometry, void* scratch, cudaStream_t stream,
                              void* grad_input);

// `layout` must not be channels_last.
cudaError_t upsample_argmax(const void* logits, const ScoreLayout& layout,
                            const UpsampleGeometry& geometry, bool byte_labels, void* scratch,
                            cudaStream_t stream, void* labels);

cudaError_t upsample_softmax(const void* logits, const ScoreLayout& layout,
                             const UpsampleGeometry& geometry, void* scratch, cudaStream_t stream,
                             void* probs);
int64_t softmax_backward_scratch_bytes(const ScoreLayout& layout, const UpsampleGeometry& geometry);
cudaError_t upsample_softmax_backward(const void* grad, const void* probs,
                                      const ScoreLayout& layout, const UpsampleGeometry& geometry,
                                      void* scratch, cudaStream_t stream, void* grad_logits);

// As CrossEntropyTask, but that the scalars stay on the device: no result is waited for. So a
// label that is none cannot be refused: its loss is NaN, and so is what is made of it.
struct CrossEntropyTask {
  const void* logits;        // (B, C, h, w), NCHW
  const void* labels;        // (B, H, W)
  bool byte_labels;          // uint8, else int64
  const void* weight;        // (C) or null; float, double for double logits, as all that follows
  const void* pixel_weight;  // (B, H, W) or null
  int64_t ignore_index;
  Reduction reduction;
  const void* grad_loss;  // that reached the loss, (B, H, W) for kNone, else (); null is one
  void* loss;             // likewise; null where not asked for
  void* grad;             // (B, C, h, w), or null
  bool grad_wide;         // float for half precision
  bool grad_channels_last;
};
int64_t cross_entropy_scratch_bytes(const ScoreLayout& layout, const UpsampleGeometry& geometry);
cudaError_t upsample_cross_entropy(const CrossEntropyTask& task, const ScoreLayout& layout,
                                   const UpsampleGeometry& geometry, void* scratch,
                                   cudaStream_t stream);

}  // namespace cuda
}  // namespace fastseg
