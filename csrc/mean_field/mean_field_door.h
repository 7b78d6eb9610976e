#pragma once

#include "../common/torch_door.h"
#include "mean_field_check.h"

namespace fastseg {

// What the checks may know of the operator's arguments.
inline MeanFieldArguments arguments_of(const Tensor& unary, const std::vector<Tensor>& features,
                                       const std::vector<Tensor>& transforms, int64_t iterations,
                                       const std::vector<Text>& normalizations) {
  MeanFieldArguments arguments = {info_of("unary", unary), {}, {}, iterations, {}};
  for (size_t k = 0; k < features.size(); ++k) {
    arguments.features.push_back(info_of("features[" + std::to_string(k) + "]", features[k]));
  }
  for (size_t k = 0; k < transforms.size(); ++k) {
    arguments.transforms.push_back(info_of("transforms[" + std::to_string(k) + "]", transforms[k]));
  }
  for (const Text& name : normalizations) arguments.normalizations.push_back(name.value);
  return arguments;
}

}  // namespace fastseg
