#include <type_traits>

#include "cross_entropy_upsample.h"
#include "entry_points.h"
#include "probability_upsample.h"

namespace fastseg {
namespace FASTSEG_ISA {

void upsample_softmax(const void* logits, const ScoreLayout& layout,
                      const UpsampleGeometry& geometry, Parallel parallel, void* probs) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const SourcePlanes<S> source(logits, layout, geometry.source_height, geometry.source_width,
                                 parallel);
    ProbabilityUpsample<S>(layout, geometry)
        .forward(source.planes(), static_cast<S*>(probs), parallel);
  });
}

void upsample_softmax_backward(const void* grad, const void* probs, const ScoreLayout& layout,
                               const UpsampleGeometry& geometry, Parallel parallel,
                               void* grad_logits) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    SumPlanes<S> sums(grad_logits, layout, geometry.source_height, geometry.source_width, parallel);
    ProbabilityUpsample<S>(layout, geometry)
        .backward(static_cast<const S*>(grad), static_cast<const S*>(probs), sums.planes(),
                  parallel);
    sums.finish(1.0, parallel);
  });
}

CrossEntropySums upsample_cross_entropy(const CrossEntropyTask& task, const ScoreLayout& layout,
                                        const UpsampleGeometry& geometry, Parallel parallel) {
  CrossEntropySums total = {};
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    using T = Arithmetic<S>;
    const SourcePlanes<S> source(task.logits, layout, geometry.source_height, geometry.source_width,
                                 parallel);
    CrossEntropyUpsample<T> cross_entropy(task, layout, geometry, source.planes());
    if (task.grad == nullptr) {
      total = cross_entropy.run(nullptr, parallel);
      return;
    }
    const auto add_up = [&](auto sums) {
      total = cross_entropy.run(&sums.planes(), parallel);
      // The mean of no pixel is NaN, and its gradient zero, as torch has it.
      double factor = task.grad_map ? 1.0 : task.grad_scalar;
      if (task.reduction == Reduction::kMean) factor = total.counted ? factor / total.weight : 0.0;
      sums.finish(factor, parallel);
    };
    const int64_t height = geometry.source_height, width = geometry.source_width;
    if (task.grad_wide) {
      add_up(SumPlanes<T>(task.grad, layout, height, width, parallel));
    } else {
      add_up(SumPlanes<S>(task.grad, layout, height, width, parallel));
    }
  });
  return total;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
