#pragma once

#include "../conv_door.h"
#include "dilated_conv_cuda.h"

// How the doors to the GPU's convolutions hand them their weights.
namespace fastseg {

inline cuda::ConvBranch branch_of(const ConvGeometry& g, const Tensor& weight, const void* bias) {
  const ConvWeight view = weight_of(weight);
  return {g.out_channels,
          {g.kernel_height, g.kernel_width},
          {g.rate[0], g.rate[1]},
          {g.padding[0], g.padding[2]},
          view.data,
          {view.stride[0], view.stride[1], view.stride[2], view.stride[3]},
          bias};
}

}  // namespace fastseg
