#include <type_traits>

#include "bilinear_upsample_cuda.h"
#include "score_dispatch.cuh"
#include "upsample_adjoint.cuh"
#include "upsample_cross_entropy_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

// Packs of pixels, of which each thread takes one.
int64_t loss_packs(const ScoreLayout& layout, const UpsampleGeometry& g) {
  const int64_t of_row = taps_are_near<4>(g) ? packs_of_row<4>(g) : packs_of_row<1>(g);
  return layout.batch * g.height * of_row;
}
int64_t loss_blocks(const ScoreLayout& layout, const UpsampleGeometry& g) {
  return ceil_div(loss_packs(layout, g), kLossThreads);
}

int64_t padded(int64_t bytes) { return (bytes + 31) / 32 * 32; }

// The parts of the scratch memory.
template <typename T>
struct LossScratch {
  PixelRecord<T>* records;
  LossSums* partial;
  T* factor;
  void* tables;

  LossScratch(void* memory, const ScoreLayout& layout, const UpsampleGeometry& g) {
    char* at = static_cast<char*>(memory);
    records = reinterpret_cast<PixelRecord<T>*>(at);
    at += padded(layout.batch * g.height * g.width * int64_t{sizeof(PixelRecord<T>)});
    partial = reinterpret_cast<LossSums*>(at);
    at += padded(loss_blocks(layout, g) * int64_t{sizeof(LossSums)});
    factor = reinterpret_cast<T*>(at);
    at += padded(sizeof(T));
    tables = at;
    bytes = at - static_cast<char*>(memory) + table_bytes(g);
  }
  int64_t bytes;
};

template <typename S, typename G>
void launch_gradient(const CrossEntropyTask& task, const ScoreLayout& layout,
                     const UpsampleGeometry& g, const AxisTables<Arithmetic<S>>& tables,
                     const LossScratch<Arithmetic<S>>& scratch, cudaStream_t stream) {
  const bool map = task.reduction == Reduction::kNone;
  const CrossEntropyGradient<S, G> gradient = {static_cast<const S*>(task.logits),
                                               tables,
                                               scratch.records,
                                               map ? nullptr : scratch.factor,
                                               static_cast<G*>(task.grad),
                                               layout.channels,
                                               g.source_height,
                                               g.source_width,
                                               g.height,
                                               g.width,
                                               task.grad_channels_last};
  const int64_t planes = layout.batch * layout.channels;
  if (taps_are_near<4>(g)) {
    launch_adjoint_tiles<Arithmetic<S>, 1, 4>(gradient, tables, g, planes, 1, stream);
  } else {
    launch_adjoint_tiles<Arithmetic<S>, 1, 1>(gradient, tables, g, planes, 1, stream);
  }
}

template <typename S>
void run(const CrossEntropyTask& task, const ScoreLayout& layout, const UpsampleGeometry& g,
         void* memory, cudaStream_t stream) {
  using T = Arithmetic<S>;
  const bool map = task.reduction == Reduction::kNone;
  const LossScratch<T> scratch(memory, layout, g);
  const auto tables = make_tables<T>(g, scratch.tables, stream);
  const LossArguments<T> arguments = {task.labels,
                                      task.byte_labels,
                                      static_cast<const T*>(task.weight),
                                      static_cast<const T*>(task.pixel_weight),
                                      static_cast<const T*>(map ? task.grad_loss : nullptr),
                                      task.ignore_index};
  T* loss = static_cast<T*>(task.loss);
  const auto launch_losses = [&](auto pixels) {
    in_grids_of_threads(loss_packs(layout, g), kLossThreads, [&](int64_t first, unsigned blocks) {
      FASTSEG_LAUNCH((losses_of_pixels<S, decltype(pixels)::value>), blocks, kLossThreads, 0,
                     stream, static_cast<const S*>(task.logits), tables, layout.batch,
                     layout.channels, g, first, arguments, map ? loss : nullptr,
                     task.grad ? scratch.records : nullptr, scratch.partial);
    });
  };
  if (taps_are_near<4>(g)) {
    launch_losses(std::integral_constant<int, 4>());
  } else {
    launch_losses(std::integral_constant<int, 1>());
  }
  if (!map) {
    FASTSEG_LAUNCH(total_loss<T>, 1, kTotalThreads, 0, stream, scratch.partial,
                   loss_blocks(layout, g), task.reduction == Reduction::kMean,
                   static_cast<const T*>(task.grad_loss), loss,
                   task.grad ? scratch.factor : nullptr);
  }
  if (!task.grad || layout.batch == 0) return;
  if (task.grad_wide) return launch_gradient<S, T>(task, layout, g, tables, scratch, stream);
  launch_gradient<S, S>(task, layout, g, tables, scratch, stream);
}

}  // namespace

int64_t cross_entropy_scratch_bytes(const ScoreLayout& layout, const UpsampleGeometry& g) {
  return LossScratch<double>(nullptr, layout, g).bytes;
}

cudaError_t upsample_cross_entropy(const CrossEntropyTask& task, const ScoreLayout& layout,
                                   const UpsampleGeometry& g, void* scratch, cudaStream_t stream) {
  with_type(layout.type, [&](auto* type) {
    using S = std::remove_pointer_t<decltype(type)>;
    run<S>(task, layout, g, scratch, stream);
  });
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
