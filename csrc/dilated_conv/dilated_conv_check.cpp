#include "dilated_conv_check.h"

#include <algorithm>
#include <iterator>

#include "winograd_plan.h"

namespace fastseg {
namespace {

struct NamedAlgorithm {
  const char* name;
  ConvAlgorithm value;
};

constexpr NamedAlgorithm kAlgorithms[] = {{"direct", ConvAlgorithm::kDirect},
                                          {"winograd", ConvAlgorithm::kWinograd},
                                          {"winograd-high", ConvAlgorithm::kWinogradHigh},
                                          {"pointwise", ConvAlgorithm::kPointwise},
                                          {"strassen", ConvAlgorithm::kStrassen}};

// Sizes, rates and paddings up to here keep every sum of two products below 2^63.
constexpr int64_t kLargest = int64_t{1} << 30;

Error check_list(const char* op, const char* name, const std::vector<int64_t>& values,
                 size_t length, int64_t low) {
  if (values.size() != length) {
    return value_error(op, ": ", name, " must have ", length, " entries, got ", values.size());
  }
  for (size_t i = 0; i < length; ++i) {
    if (values[i] >= low && values[i] <= kLargest) continue;
    return check_between(op, std::string(name) + "[" + std::to_string(i) + "]", values[i], low,
                         kLargest);
  }
  return {};
}

Error check_channels(const char* op, const ConvArguments& arguments) {
  const auto& input = arguments.input.shape;
  const auto& weight = arguments.weight.shape;
  const int64_t groups = arguments.groups;
  FASTSEG_RETURN_IF_ERROR(check_between(op, "groups", groups, 1, kLargest));
  if (input[1] != weight[1] * groups) {
    return value_error(op, ": input must have ", weight[1] * groups,
                       " channels for weights of shape ", shape_text(weight), " in ", groups,
                       groups == 1 ? " group" : " groups", ", got ", input[1]);
  }
  if (weight[0] % groups != 0) {
    return value_error(op, ": groups must divide the ", weight[0], " output channels, got ",
                       groups);
  }
  return {};
}

Error check_sizes(const char* op, const ArgumentInfo& argument, const char* pattern,
                  size_t first_positive) {
  FASTSEG_RETURN_IF_ERROR(check_rank(op, argument, argument.shape.size() == 4, pattern));
  bool right = true;
  for (size_t i = 0; i < 4; ++i) {
    right &= argument.shape[i] >= (i < first_positive ? 0 : 1) && argument.shape[i] <= kLargest;
  }
  if (right) return {};
  return value_error(op, ": ", argument.name, " must have sizes ", pattern, " from 1 to 2^30",
                     first_positive > 0 ? " (B from 0)" : "", ", got shape ",
                     shape_text(argument.shape));
}

Error check_field_of_view(const char* op, const ConvArguments& arguments, const ConvGeometry& g) {
  const int64_t rows = g.rate[0] * (g.kernel_height - 1) + 1;
  const int64_t columns = g.rate[1] * (g.kernel_width - 1) + 1;
  if (g.height + g.padding[0] + g.padding[1] >= rows &&
      g.width + g.padding[2] + g.padding[3] >= columns) {
    return {};
  }
  return value_error(op, ": input must be at least as large, with its padding, as the kernel's ",
                     rows, " x ", columns, " field of view, got ",
                     g.height + g.padding[0] + g.padding[1], " x ",
                     g.width + g.padding[2] + g.padding[3]);
}

Error check_shape(const char* op, const ArgumentInfo& argument, const std::vector<int64_t>& shape) {
  if (argument.shape == shape) return {};
  return value_error(op, ": ", argument.name, " must have shape ", shape_text(shape), ", got ",
                     shape_text(argument.shape));
}

}  // namespace

const char* algorithm_name(ConvAlgorithm algorithm) {
  for (const auto& known : kAlgorithms) {
    if (known.value == algorithm) return known.name;
  }
  return "";
}

Error check_floating_image(const char* op, const ArgumentInfo& argument) {
  const std::string& dtype = argument.dtype_name;
  if (dtype == "float32" || dtype == "float64" || dtype == "float16" || dtype == "bfloat16") {
    return {};
  }
  return type_error(op, ": ", argument.name,
                    " must have dtype float32, float64, float16 or bfloat16, got ", dtype);
}

Error check_transformable(const char* op, const ArgumentInfo& argument) {
  if (argument.dtype != ScalarType::kFloat64) return {};
  return type_error(op, ": ", argument.name,
                    " must have dtype float32, float16 or bfloat16, got float64");
}

Error check_input_size(const char* op, const std::vector<int64_t>& input_size) {
  return check_list(op, "input_size", input_size, 2, 0);
}

Error check_layer_size(const char* op, const std::vector<int64_t>& weight_and_geometry) {
  constexpr size_t kEntries = 4 + 2 + 4 + 2 + 1;
  if (weight_and_geometry.size() == kEntries) return {};
  return value_error(op, ": weight_and_geometry must have ", kEntries, " entries, got ",
                     weight_and_geometry.size());
}

Error check_transformed(const char* op, const ArgumentInfo& transformed, const float* values,
                        const ConvGeometry& geometry, ConvAlgorithm algorithm) {
  const PackedLayout layout = packed_layout(geometry, algorithm);
  FASTSEG_RETURN_IF_ERROR(check_shape(op, transformed, {layout.size}));
  if (std::equal(layout.header, layout.header + kPackedHeader, values)) return {};
  return value_error(op, ": transformed must be what dilated_conv2d_transform returns for this ",
                     "layer, input size and algorithm, got that of another");
}

Error check_activation(const char* op, const std::string& name, Activation* activation) {
  if (name == "none") {
    *activation = Activation::kNone;
  } else if (name == "relu") {
    *activation = Activation::kRelu;
  } else if (name == "relu6") {
    *activation = Activation::kRelu6;
  } else {
    return value_error(op, ": activation must be 'none', 'relu' or 'relu6', got '", name, "'");
  }
  return {};
}

Error check_accuracy(const char* op, const std::string& name, bool* high) {
  *high = name == "high";
  if (*high || name == "default") return {};
  return value_error(op, ": accuracy must be 'default' or 'high', got '", name, "'");
}

Error check_conv_geometry(const char* op, const ConvArguments& arguments, ConvGeometry* geometry) {
  const auto& input = arguments.input.shape;
  const auto& weight = arguments.weight.shape;
  FASTSEG_RETURN_IF_ERROR(check_sizes(op, arguments.input, "(B, C, H, W)", 1));
  FASTSEG_RETURN_IF_ERROR(check_sizes(op, arguments.weight, "(O, C / groups, KH, KW)", 0));
  FASTSEG_RETURN_IF_ERROR(check_list(op, "rate", arguments.rate, 2, 1));
  FASTSEG_RETURN_IF_ERROR(check_list(op, "padding", arguments.padding, 4, 0));
  FASTSEG_RETURN_IF_ERROR(check_list(op, "stride", arguments.stride, 2, 1));
  FASTSEG_RETURN_IF_ERROR(check_channels(op, arguments));
  ConvGeometry& g = *geometry;
  g = {input[0],
       input[1],
       input[2],
       input[3],
       weight[0],
       weight[2],
       weight[3],
       {arguments.rate[0], arguments.rate[1]},
       {arguments.padding[0], arguments.padding[1], arguments.padding[2], arguments.padding[3]},
       {arguments.stride[0], arguments.stride[1]},
       arguments.groups};
  FASTSEG_RETURN_IF_ERROR(check_field_of_view(op, arguments, g));
  FASTSEG_RETURN_IF_ERROR(check_addressable(op, arguments.input, input, sizeof(double)));
  // Weights are transformed into at most 36 values for each channel pair and tap.
  std::vector<int64_t> transformed = weight;
  transformed.push_back(36 * 48);
  FASTSEG_RETURN_IF_ERROR(check_addressable(op, arguments.weight, transformed, sizeof(double)));
  return check_addressable(op, arguments.input,
                           {g.batch, g.out_channels, g.out_height(), g.out_width()},
                           sizeof(double));
}

Error check_algorithm(const char* op, const std::string& name, const ConvGeometry& geometry,
                      ConvAlgorithm* algorithm) {
  const auto found = std::find_if(std::begin(kAlgorithms), std::end(kAlgorithms),
                                  [&](const NamedAlgorithm& known) { return name == known.name; });
  if (found == std::end(kAlgorithms)) {
    std::string names;
    for (const auto& known : kAlgorithms) {
      names += (names.empty() ? "'" : ", '") + std::string(known.name) + "'";
    }
    return value_error(op, ": algorithm must be one of ", names, ", got '", name, "'");
  }
  *algorithm = found->value;
  if (found->value == ConvAlgorithm::kPointwise && !pointwise_serves(geometry)) {
    return value_error(op, ": algorithm must serve the layer, got 'pointwise', which needs a 1x1 ",
                       "kernel, no padding and one group");
  }
  if (found->value == ConvAlgorithm::kStrassen && !strassen_serves(geometry)) {
    return value_error(
        op, ": algorithm must serve the layer, got 'strassen', which needs a 1x1 ",
        "kernel, no padding, one group, an even number of input channels and at least ",
        kStrassenFewest, " inputs and outputs");
  }
  const bool winograd =
      found->value == ConvAlgorithm::kWinograd || found->value == ConvAlgorithm::kWinogradHigh;
  if (winograd && !winograd_serves(geometry)) {
    return value_error(op, ": algorithm must serve the layer, got '", name,
                       "', which needs a 3x3 kernel, stride 1, one group and 16 channels");
  }
  return {};
}

Error check_gemm_plan(const char* op, const std::string& name, const ConvGeometry& geometry,
                      ElementType type, GemmPlan* plan) {
  for (const GemmPlan& known : gemm_plans()) {
    if (name != plan_name(known)) continue;
    *plan = known;
    if (known.direct || gemm_serves(geometry, type)) {
      if (!known.tf32 || type == ElementType::kFloat) return {};
      return value_error(op, ": algorithm must serve the layer, got '", name,
                         "', which needs float32");
    }
    return value_error(op, ": algorithm must serve the layer, got '", name,
                       "', which needs float32, float16 or bfloat16, and sizes with padding below ",
                       kGemmExtent);
  }
  return value_error(op, ": algorithm must be 'direct' or, for example, 'gemm-64x64', ",
                     "'gemm-128x128-split4' or 'gemm-128x32-tf32', got '", name, "'");
}

Error check_conv_tensors(const char* op, const ConvArguments& arguments, ConvGeometry* geometry) {
  FASTSEG_RETURN_IF_ERROR(check_floating_image(op, arguments.input));
  FASTSEG_RETURN_IF_ERROR(check_conv_geometry(op, arguments, geometry));
  const ConvGeometry& g = *geometry;
  if (arguments.bias) {
    FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, arguments.input, *arguments.bias));
    FASTSEG_RETURN_IF_ERROR(check_shape(op, *arguments.bias, {g.out_channels}));
  }
  if (arguments.residual) {
    FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, arguments.input, *arguments.residual));
    FASTSEG_RETURN_IF_ERROR(check_shape(op, *arguments.residual,
                                        {g.batch, g.out_channels, g.out_height(), g.out_width()}));
  }
  return {};
}

Error check_dilated_conv2d(const char* op, const ConvArguments& arguments, ConvGeometry* geometry,
                           ConvAlgorithm* algorithm) {
  FASTSEG_RETURN_IF_ERROR(check_conv_tensors(op, arguments, geometry));
  FASTSEG_RETURN_IF_ERROR(check_algorithm(op, arguments.algorithm, *geometry, algorithm));
  if (arguments.input.dtype == ScalarType::kFloat64 && *algorithm != ConvAlgorithm::kDirect) {
    return value_error(op, ": algorithm must be 'direct' for float64, got '", arguments.algorithm,
                       "'");
  }
  return {};
}

}  // namespace fastseg
