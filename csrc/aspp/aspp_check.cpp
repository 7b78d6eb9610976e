#include "aspp_check.h"

#include <algorithm>

#include "../dilated_conv/dilated_conv_check.h"

namespace fastseg {
namespace {

Error check_combine(const char* op, const AsppArguments& arguments, bool* concat) {
  *concat = arguments.combine == "concat";
  if (!*concat && arguments.combine != "sum") {
    return value_error(op, ": combine must be 'sum' or 'concat', got '", arguments.combine, "'");
  }
  for (const ArgumentInfo& weight : arguments.weights) {
    if (*concat || weight.shape[0] == arguments.weights[0].shape[0]) continue;
    return value_error(op, ": ", weight.name, " must have the ", arguments.weights[0].shape[0],
                       " output channels of ", arguments.weights[0].name, " to be summed, got ",
                       weight.shape[0]);
  }
  return {};
}

Error check_counts(const char* op, const AsppArguments& arguments) {
  const size_t branches = arguments.weights.size();
  if (branches == 0) return value_error(op, ": weights must have at least one entry, got 0");
  if (arguments.rates.size() != branches) {
    return value_error(op, ": rates must have one entry for each of the ", branches,
                       " weights, got ", arguments.rates.size());
  }
  if (!arguments.biases.empty() && arguments.biases.size() != branches) {
    return value_error(op, ": biases must have one entry for each of the ", branches,
                       " weights, or none, got ", arguments.biases.size());
  }
  return {};
}

// One branch as the convolution that it is.
Error check_branch(const char* op, const AsppArguments& arguments, size_t i, AsppBranch* branch) {
  const ArgumentInfo& weight = arguments.weights[i];
  const int64_t rate = arguments.rates[i];
  FASTSEG_RETURN_IF_ERROR(check_rank(op, weight, weight.shape.size() == 4, "(O, C, KH, KW)"));
  const int64_t rows = weight.shape[2], columns = weight.shape[3];
  if (rows % 2 != 1 || columns % 2 != 1) {
    return value_error(op, ": ", weight.name, " must have an odd kernel, got ", rows, " x ",
                       columns);
  }
  const std::string name = "rates[" + std::to_string(i) + "]";
  const bool single = rows == 1 && columns == 1;
  FASTSEG_RETURN_IF_ERROR(check_between(op, name, rate, single ? 0 : 1, int64_t{1} << 20));
  const int64_t apart = std::max<int64_t>(rate, 1);
  ConvArguments convolution = {arguments.input, weight, {}, {}, {apart, apart}, {}, {1, 1}, 1, ""};
  if (!arguments.biases.empty()) convolution.bias = arguments.biases[i];
  if (rows > (int64_t{1} << 9) || columns > (int64_t{1} << 9)) {
    return value_error(op, ": ", weight.name, " must have a kernel of at most 511, got ", rows,
                       " x ", columns);
  }
  const int64_t top = apart * (rows / 2), left = apart * (columns / 2);
  convolution.padding = {top, top, left, left};
  ConvGeometry geometry;
  FASTSEG_RETURN_IF_ERROR(check_conv_geometry(op, convolution, &geometry));
  if (convolution.bias && convolution.bias->shape != std::vector<int64_t>{weight.shape[0]}) {
    return value_error(op, ": ", convolution.bias->name, " must have shape ",
                       shape_text({weight.shape[0]}), ", got ",
                       shape_text(convolution.bias->shape));
  }
  branch->out_channels = weight.shape[0];
  branch->kernel_height = rows;
  branch->kernel_width = columns;
  branch->rate = apart;
  return {};
}

}  // namespace

Error check_aspp(const char* op, const AsppArguments& arguments, bool typed_weights,
                 AsppCall* call) {
  FASTSEG_RETURN_IF_ERROR(check_activation(op, arguments.activation, &call->activation));
  FASTSEG_RETURN_IF_ERROR(check_accuracy(op, arguments.accuracy, &call->high_accuracy));
  FASTSEG_RETURN_IF_ERROR(check_floating_image(op, arguments.input));
  FASTSEG_RETURN_IF_ERROR(check_counts(op, arguments));
  for (size_t i = 0; i < arguments.weights.size(); ++i) {
    if (typed_weights) {
      FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, arguments.input, arguments.weights[i]));
    }
    if (!arguments.biases.empty()) {
      FASTSEG_RETURN_IF_ERROR(check_same_dtype(op, arguments.input, arguments.biases[i]));
    }
    AsppBranch branch = {};
    FASTSEG_RETURN_IF_ERROR(check_branch(op, arguments, i, &branch));
    call->branches.push_back(branch);
  }
  FASTSEG_RETURN_IF_ERROR(check_combine(op, arguments, &call->concat));
  const auto& shape = arguments.input.shape;
  call->batch = shape[0];
  call->channels = shape[1];
  call->height = shape[2];
  call->width = shape[3];
  int64_t outputs = 0;
  for (const AsppBranch& branch : call->branches) outputs += branch.out_channels;
  return check_addressable(op, arguments.input, {shape[0], outputs, shape[2], shape[3]},
                           sizeof(double));
}

Error check_aspp_transformed(const char* op, const ArgumentInfo& transformed, const float* values,
                             const AsppCall& call) {
  const int64_t size = aspp_packed_size(call);
  if (transformed.shape != std::vector<int64_t>{size}) {
    return value_error(op, ": transformed must have shape ", shape_text({size}), ", got ",
                       shape_text(transformed.shape));
  }
  bool right = true;
  if (is_merged_sum(call)) {
    float header[kPackedHeader];
    merged_header(call, header);
    right = std::equal(header, header + kPackedHeader, values);
  } else {
    for (const AsppBranch& branch : call.branches) {
      const PackedLayout layout = packed_layout(call.geometry(branch), call.algorithm(branch));
      right &= std::equal(layout.header, layout.header + kPackedHeader, values);
      values += layout.size;
    }
  }
  if (right) return {};
  return value_error(op,
                     ": transformed must be what aspp_transform returns for these branches and ",
                     "this input size, got that of others");
}

}  // namespace fastseg
