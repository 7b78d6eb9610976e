#pragma once

#include <optional>

#include "../common/torch_door.h"
#include "dilated_conv.h"

// How the doors of the convolution operators hand tensors to their kernels.
namespace fastseg {

inline ElementType element_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case TensorType::Double:
      return ElementType::kDouble;
    case TensorType::Half:
      return ElementType::kHalf;
    case TensorType::BFloat16:
      return ElementType::kBFloat16;
    default:
      return ElementType::kFloat;
  }
}

inline ElementType element_type(const std::string& dtype_name) {
  if (dtype_name == "float64") return ElementType::kDouble;
  if (dtype_name == "float16") return ElementType::kHalf;
  return dtype_name == "bfloat16" ? ElementType::kBFloat16 : ElementType::kFloat;
}

inline Image<const void> view_of(const Tensor& image) {
  return {image.const_data_ptr(), image.stride(0), image.stride(1), image.stride(2),
          image.stride(3)};
}

inline Image<void> mutable_view_of(const Tensor& image) {
  return {image.mutable_data_ptr(), image.stride(0), image.stride(1), image.stride(2),
          image.stride(3)};
}

// The memory format that the output takes over; contiguous ones of a single channel or pixel are
// NCHW.
inline bool is_channels_last(const Tensor& image) {
  return image.size(1) > 1 && image.stride(1) == 1 && !image.is_contiguous();
}

inline ConvWeight weight_of(const Tensor& weight) {
  return {weight.const_data_ptr(),
          {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)},
          nullptr};
}

inline std::optional<ArgumentInfo> optional_info(const char* name,
                                                 const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return info_of(name, *tensor);
}

}  // namespace fastseg
