#include <type_traits>

#include "../bilinear_upsample.h"
#include "entry_points.h"
#include "plain_upsample.h"

namespace fastseg {
namespace FASTSEG_ISA {
namespace {

void upsample(const void* input, const ScoreLayout& layout, const UpsampleGeometry& geometry,
              Parallel parallel, void* output) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    PlainUpsample<S>(layout, geometry)
        .forward(static_cast<const S*>(input), static_cast<S*>(output), parallel);
  });
}

void upsample_backward(const void* grad, const ScoreLayout& layout,
                       const UpsampleGeometry& geometry, Parallel parallel, void* grad_input) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    PlainUpsample<S>(layout, geometry)
        .backward(static_cast<const S*>(grad), static_cast<S*>(grad_input), parallel);
  });
}

}  // namespace

const BilinearUpsampleKernels& bilinear_upsample_kernels() {
  static const BilinearUpsampleKernels kernels = {
      upsample,         upsample_backward,         upsample_argmax,
      upsample_softmax, upsample_softmax_backward, upsample_cross_entropy};
  return kernels;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
