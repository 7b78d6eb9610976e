#include "gemm_launch.cuh"

namespace fastseg {
namespace cuda {

template <int kPixels, int kOutputs, int kWarpPixels, int kWarpOutputs>
using Tf32Config = GemmConfig<float, TensorCoreSums<Tf32Product, kWarpPixels, kWarpOutputs>,
                              kPixels, kOutputs, kWarpPixels, kWarpOutputs>;

template <int kPixels, int kOutputs, int kWarpPixels, int kWarpOutputs>
using FloatConfig = GemmConfig<float, MultiplyAddSums<kWarpPixels, kWarpOutputs>, kPixels, kOutputs,
                               kWarpPixels, kWarpOutputs>;

template <>
void launch_tiles(const GemmTask<float>& task, int tile, bool tf32, cudaStream_t stream) {
  if (tf32) return launch_tile_of<Tf32Config>(task, tile, stream);
  launch_tile_of<FloatConfig>(task, tile, stream);
}

}  // namespace cuda
}  // namespace fastseg
