#include <type_traits>

#include "bilinear_upsample_cuda.h"
#include "bilinear_upsample_kernels.cuh"
#include "score_dispatch.cuh"
#include "upsample_adjoint.cuh"

namespace fastseg {
namespace cuda {
namespace {

template <typename S, int kPixels>
void launch_planes(const S* input, const AxisTables<Arithmetic<S>>& tables, int64_t planes,
                   const UpsampleGeometry& g, cudaStream_t stream, S* output) {
  const auto tiles = static_cast<unsigned>(ceil_div(g.height * g.width, kThreads * kPixels));
  in_grids(ceil_div(planes, kPlanesOfThread), tiles, [&](int64_t first, unsigned blocks) {
    FASTSEG_LAUNCH((upsample_planes<S, kPixels>), blocks, kThreads, 0, stream, input, tables,
                   planes, g, tiles, first, output);
  });
}

template <typename S, int kChannels>
void launch_pixels(const S* input, const AxisTables<Arithmetic<S>>& tables,
                   const ScoreLayout& layout, const UpsampleGeometry& g, cudaStream_t stream,
                   S* output) {
  const int64_t packs = layout.batch * g.height * g.width * (layout.channels / kChannels);
  in_grids_of_threads(packs, kThreads, [&](int64_t first, unsigned blocks) {
    FASTSEG_LAUNCH((upsample_pixels<S, kChannels>), blocks, kThreads, 0, stream, input, tables,
                   layout.batch, layout.channels, g, first, output);
  });
}

}  // namespace

int64_t upsample_scratch_bytes(const UpsampleGeometry& geometry) { return table_bytes(geometry); }

cudaError_t upsample(const void* input, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                     void* scratch, cudaStream_t stream, void* output) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    constexpr int kPack = 16 / sizeof(S);
    const auto tables = make_tables<Arithmetic<S>>(geometry, scratch, stream);
    const S* from = static_cast<const S*>(input);
    S* to = static_cast<S*>(output);
    if (layout.channels_last) {
      if (pack_size<S>(layout.channels, from, to) == kPack) {
        return launch_pixels<S, kPack>(from, tables, layout, geometry, stream, to);
      }
      return launch_pixels<S, 1>(from, tables, layout, geometry, stream, to);
    }
    const int64_t planes = layout.batch * layout.channels;
    if (pack_size<S>(geometry.width, to, to) == kPack) {
      return launch_planes<S, kPack>(from, tables, planes, geometry, stream, to);
    }
    return launch_planes<S, 1>(from, tables, planes, geometry, stream, to);
  });
  return cudaGetLastError();
}

cudaError_t upsample_backward(const void* grad, const ScoreLayout& layout,
                              const UpsampleGeometry& g, void* scratch, cudaStream_t stream,
                              void* grad_input) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const auto tables = make_tables<Arithmetic<S>>(g, scratch, stream);
    const int64_t inner = layout.channels_last ? layout.channels : 1;
    const PlainGradient<S> gradient = {static_cast<const S*>(grad),
                                       static_cast<S*>(grad_input),
                                       g.source_height,
                                       g.source_width,
                                       g.height,
                                       g.width,
                                       inner};
    constexpr int kPack = sizeof(S) < 8 ? 4 : 1;  // of two float64 registers spill
    const bool packed = pack_size<S, kPack>(g.width, grad, grad) == kPack;
    launch_adjoint<Arithmetic<S>, kPack>(gradient, tables, g, layout, packed, stream);
  });
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
