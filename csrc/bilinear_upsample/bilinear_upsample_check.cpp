#include "bilinear_upsample_check.h"

#include <cmath>
#include <limits>

namespace fastseg {
namespace {

constexpr int64_t kLargestSide = std::numeric_limits<int32_t>::max() - 64;

Error check_score_dtype(const char* op, const ArgumentInfo& argument) {
  for (const char* served : {"float32", "float64", "float16", "bfloat16"}) {
    if (argument.dtype_name == served) return {};
  }
  return type_error(op, ": ", argument.name,
                    " must have dtype float32, float64, float16 or bfloat16, got ",
                    argument.dtype_name);
}

Error check_shape(const char* op, const ArgumentInfo& argument, const std::vector<int64_t>& shape) {
  if (argument.shape == shape) return {};
  return value_error(op, ": ", argument.name, " must have shape ", shape_text(shape), ", got ",
                     shape_text(argument.shape));
}

Error check_scores(const char* op, const ArgumentInfo& scores) {
  FASTSEG_RETURN_IF_ERROR(check_score_dtype(op, scores));
  FASTSEG_RETURN_IF_ERROR(check_rank(op, scores, scores.shape.size() == 4, "(B, C, H, W)"));
  for (int i = 1; i < 4; ++i) {
    FASTSEG_RETURN_IF_ERROR(check_between(op, scores.name + ".shape[" + std::to_string(i) + "]",
                                          scores.shape[i], 1, kLargestSide));
  }
  return {};
}

Error check_size(const char* op, const char* name, const std::vector<int64_t>& size) {
  if (size.size() != 2) {
    return value_error(op, ": ", name, " must be (height, width), got ", shape_text(size));
  }
  for (int i = 0; i < 2; ++i) {
    FASTSEG_RETURN_IF_ERROR(
        check_between(op, name + ("[" + std::to_string(i) + "]"), size[i], 1, kLargestSide));
  }
  return {};
}

Error check_scale(const char* op, const char* name, const std::optional<double>& scale) {
  if (!scale || (*scale > 0 && std::isfinite(*scale) && std::isfinite(1 / *scale))) return {};
  return value_error(op, ": ", name, " must be positive and finite, got ", *scale);
}

// `source` and `size` are (height, width).
Error fill_geometry(const char* op, const int64_t* source, const int64_t* size,
                    const PlacementArguments& placement, UpsampleGeometry* geometry) {
  FASTSEG_RETURN_IF_ERROR(check_scale(op, "scale[0]", placement.scale_height));
  FASTSEG_RETURN_IF_ERROR(check_scale(op, "scale[1]", placement.scale_width));
  *geometry = {source[0],
               source[1],
               size[0],
               size[1],
               placement.align_corners,
               placement.scale_height.value_or(0.0),
               placement.scale_width.value_or(0.0)};
  return {};
}

Error check_addressable_as(const char* op, const ArgumentInfo& scores,
                           const std::vector<int64_t>& size) {
  return check_addressable(op, scores, {scores.shape[0], scores.shape[1], size[0], size[1]},
                           sizeof(double));
}

}  // namespace

Error check_upsample(const char* op, const ArgumentInfo& input, const std::vector<int64_t>& size,
                     const PlacementArguments& placement, UpsampleGeometry* geometry) {
  FASTSEG_RETURN_IF_ERROR(check_scores(op, input));
  FASTSEG_RETURN_IF_ERROR(check_size(op, "size", size));
  FASTSEG_RETURN_IF_ERROR(
      fill_geometry(op, input.shape.data() + 2, size.data(), placement, geometry));
  FASTSEG_RETURN_IF_ERROR(check_addressable_as(op, input, {input.shape[2], input.shape[3]}));
  return check_addressable_as(op, input, size);
}

Error check_upsample_backward(const char* op, const ArgumentInfo& grad,
                              const std::vector<int64_t>& input_size,
                              const PlacementArguments& placement, UpsampleGeometry* geometry) {
  FASTSEG_RETURN_IF_ERROR(check_scores(op, grad));
  FASTSEG_RETURN_IF_ERROR(check_size(op, "input_size", input_size));
  FASTSEG_RETURN_IF_ERROR(
      fill_geometry(op, input_size.data(), grad.shape.data() + 2, placement, geometry));
  FASTSEG_RETURN_IF_ERROR(check_addressable_as(op, grad, {grad.shape[2], grad.shape[3]}));
  return check_addressable_as(op, grad, input_size);
}

Error check_upsample_argmax(const char* op, const ArgumentInfo& logits, const std::string& dtype) {
  if (dtype != "int64" && dtype != "uint8") {
    return type_error(op, ": dtype must be int64 or uint8, got ", dtype);
  }
  if (dtype == "int64" || logits.shape[1] <= 256) return {};
  return value_error(op, ": dtype must be int64 for more than 256 classes, got uint8 for ",
                     logits.shape[1]);
}

Error check_same_scores(const char* op, const ArgumentInfo& probs, const ArgumentInfo& grad) {
  FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, probs, grad));
  return check_shape(op, grad, probs.shape);
}

Error check_upsample_cross_entropy(const char* op, const CrossEntropyArguments& arguments,
                                   const PlacementArguments& placement, UpsampleGeometry* geometry,
                                   Reduction* reduction) {
  const ArgumentInfo& logits = arguments.logits;
  const ArgumentInfo& labels = arguments.labels;
  FASTSEG_RETURN_IF_ERROR(check_scores(op, logits));
  if (labels.dtype_name != "int64" && labels.dtype_name != "uint8") {
    return type_error(op, ": labels must have dtype int64 or uint8, got ", labels.dtype_name);
  }
  if (labels.shape.size() != 3 || labels.shape[0] != logits.shape[0]) {
    return value_error(op, ": labels must have shape (", logits.shape[0], ", H, W) beside logits ",
                       shape_text(logits.shape), ", got ", shape_text(labels.shape));
  }
  for (int i = 1; i < 3; ++i) {
    FASTSEG_RETURN_IF_ERROR(check_between(op, "labels.shape[" + std::to_string(i) + "]",
                                          labels.shape[i], 1, kLargestSide));
  }
  if (arguments.weight) {
    FASTSEG_RETURN_IF_ERROR(check_score_dtype(op, *arguments.weight));
    FASTSEG_RETURN_IF_ERROR(check_shape(op, *arguments.weight, {logits.shape[1]}));
  }
  if (arguments.pixel_weight) {
    FASTSEG_RETURN_IF_ERROR(check_score_dtype(op, *arguments.pixel_weight));
    FASTSEG_RETURN_IF_ERROR(check_shape(op, *arguments.pixel_weight, labels.shape));
  }
  if (arguments.reduction == "none") {
    *reduction = Reduction::kNone;
  } else if (arguments.reduction == "sum") {
    *reduction = Reduction::kSum;
  } else if (arguments.reduction == "mean") {
    *reduction = Reduction::kMean;
  } else {
    return value_error(op, ": reduction must be one of none, sum, mean, got '", arguments.reduction,
                       "'");
  }
  if (arguments.grad) {
    FASTSEG_RETURN_IF_ERROR(check_score_dtype(op, *arguments.grad));
    FASTSEG_RETURN_IF_ERROR(
        check_shape(op, *arguments.grad,
                    *reduction == Reduction::kNone ? labels.shape : std::vector<int64_t>{}));
  }
  return check_upsample(op, logits, {labels.shape[1], labels.shape[2]}, placement, geometry);
}

}  // namespace fastseg
