#pragma once

#include "../dilated_conv/conv_door.h"
#include "aspp.h"

// How the doors of spatial pyramid pooling hand tensors to their kernels.
namespace fastseg {

inline std::vector<ArgumentInfo> infos_of(const std::string& name,
                                          const std::vector<Tensor>& tensors) {
  std::vector<ArgumentInfo> infos;
  for (size_t i = 0; i < tensors.size(); ++i) {
    infos.push_back(info_of(name + "[" + std::to_string(i) + "]", tensors[i]));
  }
  return infos;
}

}  // namespace fastseg
