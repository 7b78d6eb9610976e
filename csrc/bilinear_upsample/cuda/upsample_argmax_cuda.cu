#include <type_traits>

#include "bilinear_upsample_cuda.h"
#include "score_dispatch.cuh"
#include "upsample_argmax_kernels.cuh"

namespace fastseg {
namespace cuda {

cudaError_t upsample_argmax(const void* logits, const ScoreLayout& layout,
                            const UpsampleGeometry& g, bool byte_labels, void* scratch,
                            cudaStream_t stream, void* labels) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const auto tables = make_tables<Arithmetic<S>>(g, scratch, stream);
    const auto launch = [&](auto* out, auto pixels) {
      using Label = std::remove_pointer_t<decltype(out)>;
      constexpr int kPixels = decltype(pixels)::value;
      const int64_t packs = layout.batch * g.height * packs_of_row<kPixels>(g);
      in_grids_of_threads(packs, kArgmaxThreads, [&](int64_t first, unsigned blocks) {
        FASTSEG_LAUNCH((argmax_of_pixels<S, Label, kPixels>), blocks, kArgmaxThreads, 0, stream,
                       static_cast<const S*>(logits), tables, row_axis(g), column_axis(g),
                       layout.batch, layout.channels, g, first, out);
      });
    };
    const auto with_pixels = [&](auto* out) {
      constexpr int kNear = 16 / sizeof(Arithmetic<S>);  // of four float64 registers spill
      if (taps_are_near<kNear>(g)) return launch(out, std::integral_constant<int, kNear>());
      return launch(out, std::integral_constant<int, 1>());
    };
    if (byte_labels) return with_pixels(static_cast<uint8_t*>(labels));
    return with_pixels(static_cast<int64_t*>(labels));
  });
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
