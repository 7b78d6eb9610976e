#pragma once

#include "../gemm_plan.h"
#include "gemm_kernel.cuh"

namespace fastseg {
namespace cuda {

// The kernels of one type, in a file of their own; `tile` is a number of kGemmTiles.
template <typename S>
void launch_tiles(const GemmTask<S>& task, int tile, bool tf32, cudaStream_t stream);
template <>
void launch_tiles(const GemmTask<float>& task, int tile, bool tf32, cudaStream_t stream);
template <>
void launch_tiles(const GemmTask<__half>& task, int tile, bool tf32, cudaStream_t stream);
template <>
void launch_tiles(const GemmTask<__nv_bfloat16>& task, int tile, bool tf32, cudaStream_t stream);

template <typename C>
void launch_tile(const GemmTask<typename C::S>& task, cudaStream_t stream) {
  const auto down = static_cast<unsigned>((task.pixels + C::kPixels - 1) / C::kPixels);
  const unsigned blocks = down * task.output_tiles * static_cast<unsigned>(task.splits);
  FASTSEG_LAUNCH(convolve_tiles<C>, blocks, C::kThreads, 0, stream, task);
}

template <template <int, int, int, int> class Config, typename S>
void launch_tile_of(const GemmTask<S>& task, int tile, cudaStream_t stream) {
  static_assert(kGemmTileCount == 3);
  if (tile == 0) return launch_tile<Config<128, 128, 64, 32>>(task, stream);
  if (tile == 1) return launch_tile<Config<64, 64, 32, 32>>(task, stream);
  launch_tile<Config<128, 32, 32, 32>>(task, stream);
}

}  // namespace cuda
}  // namespace fastseg
