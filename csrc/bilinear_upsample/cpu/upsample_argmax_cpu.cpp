#include <type_traits>

#include "entry_points.h"
#include "label_upsample.h"

namespace fastseg {
namespace FASTSEG_ISA {

void upsample_argmax(const void* logits, const ScoreLayout& layout,
                     const UpsampleGeometry& geometry, bool byte_labels, Parallel parallel,
                     void* labels) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    using T = Arithmetic<S>;
    const SourcePlanes<S> source(logits, layout, geometry.source_height, geometry.source_width,
                                 parallel);
    if (byte_labels) {
      LabelUpsample<T, uint8_t>(layout, geometry, source.planes())
          .run(static_cast<uint8_t*>(labels), parallel);
    } else {
      LabelUpsample<T, int64_t>(layout, geometry, source.planes())
          .run(static_cast<int64_t*>(labels), parallel);
    }
  });
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
