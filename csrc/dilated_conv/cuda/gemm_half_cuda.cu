#include "gemm_launch.cuh"

namespace fastseg {
namespace cuda {

template <int kPixels, int kOutputs, int kWarpPixels, int kWarpOutputs>
using Config = GemmConfig<__half, TensorCoreSums<HalfProduct, kWarpPixels, kWarpOutputs>, kPixels,
                          kOutputs, kWarpPixels, kWarpOutputs>;

template <>
void launch_tiles(const GemmTask<__half>& task, int tile, bool, cudaStream_t stream) {
  launch_tile_of<Config>(task, tile, stream);
}

}  // namespace cuda
}  // namespace fastseg
