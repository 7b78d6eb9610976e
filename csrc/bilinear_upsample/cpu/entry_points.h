#pragma once

#include "../bilinear_upsample.h"
#include "score_types.h"

// The functions of one instruction set's BilinearUpsampleKernels, and how they find their types.
namespace fastseg {
namespace FASTSEG_ISA {

void upsample_argmax(const void* logits, const ScoreLayout& layout,
                     const UpsampleGeometry& geometry, bool byte_labels, Parallel parallel,
                     void* labels);
void upsample_softmax(const void* logits, const ScoreLayout& layout,
                      const UpsampleGeometry& geometry, Parallel parallel, void* probs);
void upsample_softmax_backward(const void* grad, const void* probs, const ScoreLayout& layout,
                               const UpsampleGeometry& geometry, Parallel parallel,
                               void* grad_logits);
CrossEntropySums upsample_cross_entropy(const CrossEntropyTask& task, const ScoreLayout& layout,
                                        const UpsampleGeometry& geometry, Parallel parallel);

// use(null pointer of the type that is stored).
template <typename Use>
inline void with_type(ScoreType type, Use&& use) {
  switch (type) {
    case ScoreType::kFloat:
      return use(static_cast<float*>(nullptr));
    case ScoreType::kDouble:
      return use(static_cast<double*>(nullptr));
    case ScoreType::kHalf:
      return use(static_cast<Half*>(nullptr));
    case ScoreType::kBFloat16:
      return use(static_cast<BFloat16*>(nullptr));
  }
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
