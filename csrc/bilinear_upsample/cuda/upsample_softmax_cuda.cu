#include <type_traits>

#include "bilinear_upsample_cuda.h"
#include "score_dispatch.cuh"
#include "upsample_adjoint.cuh"
#include "upsample_softmax_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

template <typename S, int kPixels>
void launch_planes(const S* logits, const AxisTables<Arithmetic<S>>& tables,
                   const ScoreLayout& layout, const UpsampleGeometry& g, cudaStream_t stream,
                   S* probs) {
  const int64_t packs = layout.batch * g.height * packs_of_row<kPixels>(g);
  in_grids_of_threads(packs, kSoftmaxThreads, [&](int64_t first, unsigned blocks) {
    FASTSEG_LAUNCH((softmax_of_planes<S, kPixels>), blocks, kSoftmaxThreads, 0, stream, logits,
                   tables, layout.batch, layout.channels, g, first, probs);
  });
}

// How many neighbouring numbers a thread takes at once; more take too many registers.
template <typename S>
constexpr int kPack = 16 / sizeof(S) < 4 ? 16 / sizeof(S) : 4;

template <typename S, int kPixels>
void launch_products_of_planes(const S* grad, const S* probs, const ScoreLayout& layout,
                               int64_t pixels, cudaStream_t stream, Arithmetic<S>* sums) {
  const int64_t packs = layout.batch * (pixels / kPixels);
  in_grids_of_threads(packs, kSoftmaxThreads, [&](int64_t first, unsigned blocks) {
    FASTSEG_LAUNCH((inner_products_of_planes<S, kPixels>), blocks, kSoftmaxThreads, 0, stream, grad,
                   probs, layout.batch, layout.channels, pixels, first, sums);
  });
}

template <typename S>
void launch_inner_products(const S* grad, const S* probs, const ScoreLayout& layout, int64_t pixels,
                           cudaStream_t stream, Arithmetic<S>* sums) {
  if (layout.channels_last) {
    const int64_t all = layout.batch * pixels;
    in_grids_of_threads(32 * all, kSoftmaxThreads, [&](int64_t first, unsigned blocks) {
      FASTSEG_LAUNCH(inner_products_of_pixels<S>, blocks, kSoftmaxThreads, 0, stream, grad, probs,
                     layout.channels, all, first, sums);
    });
  } else if (pack_size<S, kPack<S>>(pixels, grad, probs) == kPack<S>) {
    launch_products_of_planes<S, kPack<S>>(grad, probs, layout, pixels, stream, sums);
  } else {
    launch_products_of_planes<S, 1>(grad, probs, layout, pixels, stream, sums);
  }
}

}  // namespace

cudaError_t upsample_softmax(const void* logits, const ScoreLayout& layout,
                             const UpsampleGeometry& g, void* scratch, cudaStream_t stream,
                             void* probs) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    const auto tables = make_tables<Arithmetic<S>>(g, scratch, stream);
    const S* from = static_cast<const S*>(logits);
    S* to = static_cast<S*>(probs);
    if (layout.channels_last) {
      const int64_t pixels = layout.batch * g.height * g.width;
      in_grids_of_threads(32 * pixels, kSoftmaxThreads, [&](int64_t first, unsigned blocks) {
        FASTSEG_LAUNCH(softmax_of_pixels<S>, blocks, kSoftmaxThreads, 0, stream, from, tables,
                       layout.batch, layout.channels, g, first, to);
      });
    } else if (pack_size<S, kPack<S>>(g.width, to, to) == kPack<S>) {
      launch_planes<S, kPack<S>>(from, tables, layout, g, stream, to);
    } else {
      launch_planes<S, 1>(from, tables, layout, g, stream, to);
    }
  });
  return cudaGetLastError();
}

int64_t softmax_backward_scratch_bytes(const ScoreLayout& layout, const UpsampleGeometry& g) {
  return table_bytes(g) + layout.batch * g.height * g.width * int64_t{sizeof(double)};
}

cudaError_t upsample_softmax_backward(const void* grad, const void* probs,
                                      const ScoreLayout& layout, const UpsampleGeometry& g,
                                      void* scratch, cudaStream_t stream, void* grad_logits) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    using T = Arithmetic<S>;
    const int64_t pixels = g.height * g.width;
    T* sums = static_cast<T*>(scratch);
    const auto tables = make_tables<T>(g, sums + layout.batch * pixels, stream);
    const S *upstream = static_cast<const S*>(grad), *weights = static_cast<const S*>(probs);
    launch_inner_products(upstream, weights, layout, pixels, stream, sums);
    const SoftmaxGradient<S> gradient = {upstream,
                                         weights,
                                         sums,
                                         static_cast<S*>(grad_logits),
                                         layout.channels,
                                         g.source_height,
                                         g.source_width,
                                         g.height,
                                         g.width,
                                         layout.channels_last};
    const bool packed = pack_size<S, kPack<S>>(g.width, upstream, weights) == kPack<S>;
    launch_adjoint<T, kPack<S>>(gradient, tables, g, layout, packed, stream);
  });
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
