#include "mean_field_check.h"

#include "../permutohedral/permutohedral.h"

namespace fastseg {
namespace {

struct NamedNormalization {
  const char* name;
  Normalization value;
};

constexpr NamedNormalization kNormalizations[] = {{"none", Normalization::kNone},
                                                  {"mean", Normalization::kMean},
                                                  {"before", Normalization::kBefore},
                                                  {"after", Normalization::kAfter},
                                                  {"symmetric", Normalization::kSymmetric}};

Error check_normalization(const char* op, const std::string& argument, const std::string& name) {
  if (normalization_from_name(name)) return {};
  std::string names;
  for (const auto& known : kNormalizations)
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  return value_error(op, ": ", argument, " must be one of ", names, ", got '", name, "'");
}

Error check_transform(const char* op, const ArgumentInfo& transform, int64_t labels) {
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, transform, "float32"));
  bool right = transform.shape.size() <= 2;
  for (const int64_t size : transform.shape) right &= size == labels;
  if (right) return {};
  return value_error(op, ": ", transform.name, " must have shape (), (", labels, ",) or (", labels,
                     ", ", labels, "), got ", shape_text(transform.shape));
}

Error check_dims(const char* op, const ArgumentInfo& features, int64_t dims) {
  if (dims >= 1 && dims <= kMaxFeatureDims) return {};
  return value_error(op, ": ", features.name, " must have 1 to ", kMaxFeatureDims,
                     " feature dimensions, got ", dims);
}

Error check_labels(const char* op, const std::string& name, int64_t labels) {
  if (labels >= 1 && labels <= kMaxLabels) return {};
  return value_error(op, ": ", name, " must have 1 to ", kMaxLabels, " labels, got ", labels);
}

// What is stored may be halves; the arithmetic is that of float32.
Error check_stored(const char* op, const ArgumentInfo& unary) {
  for (const char* name : {"float32", "float16", "bfloat16"}) {
    if (unary.dtype_name == name) return {};
  }
  return type_error(op, ": ", unary.name, " must have dtype float32, float16 or bfloat16, got ",
                    unary.dtype_name);
}

Error check_unary(const char* op, const ArgumentInfo& unary) {
  FASTSEG_RETURN_IF_ERROR(check_stored(op, unary));
  FASTSEG_RETURN_IF_ERROR(check_rank(op, unary, unary.shape.size() >= 3, "(B, L, *spatial)"));
  FASTSEG_RETURN_IF_ERROR(check_labels(op, unary.name, unary.shape[1]));
  const std::vector<int64_t> spatial(unary.shape.begin() + 2, unary.shape.end());
  if (checked_product(spatial) == 0) {
    return value_error(op, ": ", unary.name, " must have at least one pixel, got shape ",
                       shape_text(unary.shape));
  }
  return check_addressable(op, unary, unary.shape, sizeof(float));
}

// The shape that `features` must have beside `unary`, "(1, D, 5, 7)".
std::string features_pattern(const std::vector<int64_t>& unary) {
  std::string text = "(" + std::to_string(unary[0]) + ", D";
  for (size_t i = 2; i < unary.size(); ++i) text += ", " + std::to_string(unary[i]);
  return text + ")";
}

Error check_features(const char* op, const ArgumentInfo& unary, const ArgumentInfo& features) {
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, features, "float32"));
  std::vector<int64_t> shape = features.shape;
  if (shape.size() == unary.shape.size()) shape[1] = unary.shape[1];
  if (shape != unary.shape) {
    return value_error(op, ": ", features.name, " must have shape ", features_pattern(unary.shape),
                       " beside unary ", shape_text(unary.shape), ", got ",
                       shape_text(features.shape));
  }
  FASTSEG_RETURN_IF_ERROR(check_dims(op, features, features.shape[1]));
  shape[1] = features.shape[1] + 1;
  return check_addressable(op, features, shape, sizeof(int64_t));
}

Error check_count(const char* op, const char* name, size_t count, size_t kernels) {
  if (count == kernels) return {};
  return value_error(op, ": ", name, " must have one entry for each of features, ", kernels,
                     ", got ", count);
}

}  // namespace

std::optional<Normalization> normalization_from_name(const std::string& name) {
  for (const auto& known : kNormalizations) {
    if (name == known.name) return known.value;
  }
  return std::nullopt;
}

Error check_mean_field(const MeanFieldArguments& arguments) {
  const char* op = "mean_field";
  const size_t kernels = arguments.features.size();
  FASTSEG_RETURN_IF_ERROR(check_unary(op, arguments.unary));
  FASTSEG_RETURN_IF_ERROR(check_count(op, "transforms", arguments.transforms.size(), kernels));
  FASTSEG_RETURN_IF_ERROR(
      check_count(op, "normalizations", arguments.normalizations.size(), kernels));
  for (size_t k = 0; k < kernels; ++k) {
    FASTSEG_RETURN_IF_ERROR(check_features(op, arguments.unary, arguments.features[k]));
    FASTSEG_RETURN_IF_ERROR(check_transform(op, arguments.transforms[k], arguments.unary.shape[1]));
    FASTSEG_RETURN_IF_ERROR(check_normalization(op, "normalizations[" + std::to_string(k) + "]",
                                                arguments.normalizations[k]));
  }
  return check_mean_field_iterations(op, arguments.iterations);
}

Error check_mean_field_image(const char* op, const std::vector<int64_t>& spatial, int64_t labels) {
  const ArgumentInfo argument = {"spatial", spatial, ScalarType::kOther, ""};
  for (const int64_t size : spatial) {
    if (size >= 1) continue;
    return value_error(op, ": spatial must have at least one pixel, got ", shape_text(spatial));
  }
  FASTSEG_RETURN_IF_ERROR(check_rank(op, argument, !spatial.empty(), "(..., H, W)"));
  FASTSEG_RETURN_IF_ERROR(check_between(op, "labels", labels, 1, kMaxLabels));
  std::vector<int64_t> field = spatial;
  field.push_back(labels);
  return check_addressable(op, argument, field, sizeof(float));
}

Error check_mean_field_kernel(const char* op, const ArgumentInfo& features,
                              const ArgumentInfo& transform, const std::string& normalization,
                              int64_t labels, int64_t points) {
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, features, "float32"));
  if (features.shape.size() != 2 || features.shape[1] != points) {
    return value_error(op, ": ", features.name, " must have shape (D, ", points, "), got ",
                       shape_text(features.shape));
  }
  FASTSEG_RETURN_IF_ERROR(check_dims(op, features, features.shape[0]));
  FASTSEG_RETURN_IF_ERROR(
      check_addressable(op, features, {features.shape[0] + 1, points}, sizeof(int64_t)));
  FASTSEG_RETURN_IF_ERROR(check_transform(op, transform, labels));
  return check_normalization(op, "normalization", normalization);
}

Error check_mean_field_iterations(const char* op, int64_t iterations) {
  return check_between(op, "iterations", iterations, 0, kMaxIterations);
}

Error check_mean_field_field(const char* op, const ArgumentInfo& field, int64_t labels,
                             int64_t points) {
  FASTSEG_RETURN_IF_ERROR(check_dtype(op, field, "float32"));
  if (field.shape == std::vector<int64_t>{labels, points}) return {};
  return value_error(op, ": ", field.name, " must have shape (", labels, ", ", points, "), got ",
                     shape_text(field.shape));
}

}  // namespace fastseg
