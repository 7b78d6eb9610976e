#pragma once

#include <optional>
#include <tuple>

#include "../common/torch_door.h"
#include "bilinear_upsample.h"
#include "bilinear_upsample_check.h"

// The operators of bilinear upsampling between torch and the kernels of a Backend: checks, memory,
// layouts. A backend is made for one call, from the operator's name and a tensor on its device; its
// functions are those of the kernels, without what they run on. kClassesInPlanes says that it takes
// logits in NCHW only where it makes labels or losses of them.
namespace fastseg {

using Size = std::vector<int64_t>;

inline ScoreType score_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case TensorType::Double:
      return ScoreType::kDouble;
    case TensorType::Half:
      return ScoreType::kHalf;
    case TensorType::BFloat16:
      return ScoreType::kBFloat16;
    default:
      return ScoreType::kFloat;
  }
}

// The type that is computed in, in which weights are read and losses are returned.
inline TensorType arithmetic_type(const Tensor& scores) {
  return scores.scalar_type() == TensorType::Double ? TensorType::Double : TensorType::Float;
}

// The memory format that the output takes over; contiguous ones of a single channel or pixel are
// NCHW.
inline bool is_channels_last(const Tensor& scores) {
  return scores.size(1) > 1 && scores.stride(1) == 1 && !scores.is_contiguous();
}

inline ScoreLayout layout_of(const Tensor& scores, bool channels_last) {
  return {score_type(scores), scores.size(0), scores.size(1), channels_last};
}

template <typename Backend>
Tensor bilinear_upsample(const Tensor& input, Size size, bool align_corners,
                         std::optional<double> scale_height, std::optional<double> scale_width) {
  const char* op = "bilinear_upsample";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    raise_if(check_upsample(op, info_of("input", input), size,
                            {align_corners, scale_height, scale_width}, &geometry));
    const bool last = is_channels_last(input);
    const Tensor source = packed_image(input, last);
    Tensor output = empty_image(input.size(0), input.size(1), size[0], size[1], input.scalar_type(),
                                last, input.device());
    if (output.numel() == 0) return output;
    Backend(op, input).upsample(source.const_data_ptr(), layout_of(source, last), geometry,
                                output.mutable_data_ptr());
    return output;
  });
}

template <typename Backend>
Tensor bilinear_upsample_backward(const Tensor& grad, Size input_size, bool align_corners,
                                  std::optional<double> scale_height,
                                  std::optional<double> scale_width) {
  const char* op = "bilinear_upsample_backward";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    raise_if(check_upsample_backward(op, info_of("grad", grad), input_size,
                                     {align_corners, scale_height, scale_width}, &geometry));
    const bool last = is_channels_last(grad);
    const Tensor source = packed_image(grad, last);
    Tensor grad_input = empty_image(grad.size(0), grad.size(1), input_size[0], input_size[1],
                                    grad.scalar_type(), last, grad.device());
    if (grad_input.numel() == 0) return grad_input;
    Backend(op, grad).upsample_backward(source.const_data_ptr(), layout_of(source, last), geometry,
                                        grad_input.mutable_data_ptr());
    return grad_input;
  });
}

template <typename Backend>
Tensor upsample_argmax(const Tensor& logits, Size size, Text dtype, bool align_corners,
                       std::optional<double> scale_height, std::optional<double> scale_width) {
  const char* op = "upsample_argmax";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    const ArgumentInfo info = info_of("logits", logits);
    raise_if(check_upsample(op, info, size, {align_corners, scale_height, scale_width}, &geometry));
    raise_if(check_upsample_argmax(op, info, dtype.value));
    const bool bytes = dtype.value == "uint8";
    const bool last = !Backend::kClassesInPlanes && is_channels_last(logits);
    const Tensor source = packed_image(logits, last);
    Tensor labels = empty_tensor({logits.size(0), size[0], size[1]},
                                 bytes ? TensorType::Byte : TensorType::Long, logits.device());
    if (labels.numel() == 0) return labels;
    Backend(op, logits)
        .argmax(source.const_data_ptr(), layout_of(source, last), geometry, bytes,
                labels.mutable_data_ptr());
    return labels;
  });
}

template <typename Backend>
Tensor upsample_softmax(const Tensor& logits, Size size, bool align_corners,
                        std::optional<double> scale_height, std::optional<double> scale_width) {
  const char* op = "upsample_softmax";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    raise_if(check_upsample(op, info_of("logits", logits), size,
                            {align_corners, scale_height, scale_width}, &geometry));
    const bool last = is_channels_last(logits);
    const Tensor source = packed_image(logits, last);
    Tensor probs = empty_image(logits.size(0), logits.size(1), size[0], size[1],
                               logits.scalar_type(), last, logits.device());
    if (probs.numel() == 0) return probs;
    Backend(op, logits)
        .softmax(source.const_data_ptr(), layout_of(source, last), geometry,
                 probs.mutable_data_ptr());
    return probs;
  });
}

template <typename Backend>
Tensor upsample_softmax_backward(const Tensor& grad, const Tensor& probs, Size input_size,
                                 bool align_corners, std::optional<double> scale_height,
                                 std::optional<double> scale_width) {
  const char* op = "upsample_softmax_backward";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    const ArgumentInfo info = info_of("probs", probs);
    raise_if(check_upsample_backward(op, info, input_size,
                                     {align_corners, scale_height, scale_width}, &geometry));
    raise_if(check_same_scores(op, info, info_of("grad", grad)));
    const bool last = is_channels_last(probs);
    const Tensor weights = packed_image(probs, last), source = packed_image(grad, last);
    Tensor grad_logits = empty_image(probs.size(0), probs.size(1), input_size[0], input_size[1],
                                     probs.scalar_type(), last, probs.device());
    if (grad_logits.numel() == 0) return grad_logits;
    Backend(op, probs).softmax_backward(source.const_data_ptr(), weights.const_data_ptr(),
                                        layout_of(weights, last), geometry,
                                        grad_logits.mutable_data_ptr());
    return grad_logits;
  });
}

// Everything that the three operators of the cross-entropy share.
struct CrossEntropyCall {
  const char* op;
  const Tensor& logits;
  const Tensor& labels;
  const std::optional<Tensor>& weight;
  const std::optional<Tensor>& pixel_weight;
  int64_t ignore_index;
  const Text& reduction;
  PlacementArguments placement;
  std::optional<Tensor> grad;  // that reached the loss
  bool want_loss, want_grad;
};

struct CrossEntropyResult {
  std::optional<Tensor> loss, grad;
};

inline std::optional<ArgumentInfo> optional_info(const char* name,
                                                 const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return info_of(name, *tensor);
}

// Contiguous and of the type that is computed in.
inline std::optional<Tensor> operand(const std::optional<Tensor>& tensor, TensorType type) {
  if (!tensor) return std::nullopt;
  if (tensor->scalar_type() == type) return packed(*tensor);
  return packed(torch::stable::to(*tensor, type));
}

// The operands of a call as the kernels take them: dense, and of the type that is computed in.
struct CrossEntropyOperands {
  const CrossEntropyCall& call;
  const Tensor &logits, &labels;
  const std::optional<Tensor>&weight, &pixel_weight, &grad_loss;
  Reduction reduction;
  ScoreLayout layout;
  const UpsampleGeometry& geometry;
  bool grad_channels_last;
  const CrossEntropyResult& result;  // its tensors are to be filled
};

template <typename Backend>
CrossEntropyResult cross_entropy(const CrossEntropyCall& call) {
  return with_error_kinds(call.op, [&] {
    UpsampleGeometry geometry;
    Reduction reduction;
    const CrossEntropyArguments arguments = {info_of("logits", call.logits),
                                             info_of("labels", call.labels),
                                             optional_info("weight", call.weight),
                                             optional_info("pixel_weight", call.pixel_weight),
                                             call.reduction.value,
                                             optional_info("grad", call.grad)};
    raise_if(
        check_upsample_cross_entropy(call.op, arguments, call.placement, &geometry, &reduction));
    const bool last = is_channels_last(call.logits), map = reduction == Reduction::kNone;
    const bool last_logits = !Backend::kClassesInPlanes && last;
    const TensorType type = arithmetic_type(call.logits);
    const Tensor logits = packed_image(call.logits, last_logits), labels = packed(call.labels);
    const std::optional<Tensor> weight = operand(call.weight, type);
    const std::optional<Tensor> pixel_weight = operand(call.pixel_weight, type);
    const std::optional<Tensor> grad_loss = operand(call.grad, type);
    CrossEntropyResult result;
    if (call.want_loss)
      result.loss = empty_tensor(map ? shape_of(labels) : Size{}, type, logits.device());
    if (call.want_grad) {
      result.grad =
          empty_image(logits.size(0), logits.size(1), logits.size(2), logits.size(3),
                      call.want_loss ? type : logits.scalar_type(), last, logits.device());
    }
    Backend(call.op, logits)
        .cross_entropy({call, logits, labels, weight, pixel_weight, grad_loss, reduction,
                        layout_of(logits, last_logits), geometry, last, result});
    return result;
  });
}

template <typename Backend>
Tensor upsample_cross_entropy(const Tensor& logits, const Tensor& labels,
                              std::optional<Tensor> weight, std::optional<Tensor> pixel_weight,
                              int64_t ignore_index, Text reduction, bool align_corners,
                              std::optional<double> scale_height,
                              std::optional<double> scale_width) {
  const PlacementArguments placement = {align_corners, scale_height, scale_width};
  return *cross_entropy<Backend>({"upsample_cross_entropy", logits, labels, weight, pixel_weight,
                                  ignore_index, reduction, placement, std::nullopt, true, false})
              .loss;
}

template <typename Backend>
std::tuple<Tensor, Tensor> upsample_cross_entropy_and_gradient(
    const Tensor& logits, const Tensor& labels, std::optional<Tensor> weight,
    std::optional<Tensor> pixel_weight, int64_t ignore_index, Text reduction, bool align_corners,
    std::optional<double> scale_height, std::optional<double> scale_width) {
  const PlacementArguments placement = {align_corners, scale_height, scale_width};
  const CrossEntropyResult result =
      cross_entropy<Backend>({"upsample_cross_entropy", logits, labels, weight, pixel_weight,
                              ignore_index, reduction, placement, std::nullopt, true, true});
  return {*result.loss, *result.grad};
}

template <typename Backend>
Tensor upsample_cross_entropy_backward(const Tensor& grad, const Tensor& logits,
                                       const Tensor& labels, std::optional<Tensor> weight,
                                       std::optional<Tensor> pixel_weight, int64_t ignore_index,
                                       Text reduction, bool align_corners,
                                       std::optional<double> scale_height,
                                       std::optional<double> scale_width) {
  const PlacementArguments placement = {align_corners, scale_height, scale_width};
  return *cross_entropy<Backend>({"upsample_cross_entropy_backward", logits, labels, weight,
                                  pixel_weight, ignore_index, reduction, placement, grad, false,
                                  true})
              .grad;
}

// The schemas' functions, of one backend.
template <typename Backend>
void implement_bilinear_upsample(torch::stable::detail::StableLibrary& m) {
  m.impl("bilinear_upsample", TORCH_BOX(&bilinear_upsample<Backend>));
  m.impl("bilinear_upsample_backward", TORCH_BOX(&bilinear_upsample_backward<Backend>));
  m.impl("upsample_argmax", TORCH_BOX(&upsample_argmax<Backend>));
  m.impl("upsample_softmax", TORCH_BOX(&upsample_softmax<Backend>));
  m.impl("upsample_softmax_backward", TORCH_BOX(&upsample_softmax_backward<Backend>));
  m.impl("upsample_cross_entropy", TORCH_BOX(&upsample_cross_entropy<Backend>));
  m.impl("upsample_cross_entropy_and_gradient",
         TORCH_BOX(&upsample_cross_entropy_and_gradient<Backend>));
  m.impl("upsample_cross_entropy_backward", TORCH_BOX(&upsample_cross_entropy_backward<Backend>));
}

}  // namespace fastseg
