#include "dilated_conv.h"

#include <array>
#include <optional>

#include "../common/instruction_set.h"
#include "conv_door.h"
#include "cost_model.h"
#include "dilated_conv_check.h"
#include "gemm_plan.h"
#include "winograd_plan.h"

// The convolution as torch operators: schema, and the CPU door.
namespace fastseg {
namespace {

const DilatedConvKernels& kernels() { return instruction_set().dilated_conv; }

// Everything but the weights.
struct Layer {
  const Tensor& input;
  const std::optional<Tensor>& bias;
  const std::optional<Tensor>& residual;
  ConvGeometry geometry;
  ConvAlgorithm algorithm;
  Activation activation;
};

Tensor convolve(const Layer& layer, const ConvWeight& weight) {
  const ConvGeometry& g = layer.geometry;
  Tensor output = empty_image(g.batch, g.out_channels, g.out_height(), g.out_width(),
                              layer.input.scalar_type(), is_channels_last(layer.input));
  if (output.numel() == 0) return output;
  std::optional<Tensor> bias;
  if (layer.bias) bias = packed(*layer.bias);
  const ConvCall call = {g,
                         layer.algorithm,
                         element_type(layer.input),
                         view_of(layer.input),
                         weight,
                         bias ? bias->const_data_ptr() : nullptr,
                         layer.residual ? view_of(*layer.residual) : Image<const void>{},
                         layer.activation,
                         mutable_view_of(output)};
  // For less work calling the threads together takes longer than they would save.
  const double alone = is_depthwise(g) ? 2e5 : 1e6;
  if (cost_model::direct_products(g) < alone) {
    kernels().convolve(call, serial());
  } else {
    with_torch_crew([&] { kernels().convolve(call, torch_threads()); });
  }
  return output;
}

Tensor dilated_conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                      std::optional<Tensor> residual, std::vector<int64_t> rate,
                      std::vector<int64_t> padding, std::vector<int64_t> stride, int64_t groups,
                      Text activation, Text algorithm) {
  const char* op = "dilated_conv2d";
  return with_error_kinds(op, [&] {
    Layer layer = {input, bias, residual, {}, {}, {}};
    const ConvArguments arguments = {info_of("input", input),
                                     info_of("weight", weight),
                                     optional_info("bias", bias),
                                     optional_info("residual", residual),
                                     rate,
                                     padding,
                                     stride,
                                     groups,
                                     algorithm.value};
    raise_if(check_activation(op, activation.value, &layer.activation));
    raise_if(check_dilated_conv2d(op, arguments, &layer.geometry, &layer.algorithm));
    raise_if(check_same_dtype(op, arguments.input, arguments.weight));
    return convolve(layer, weight_of(weight));
  });
}

Tensor dilated_conv2d_transform(const Tensor& weight, std::vector<int64_t> input_size,
                                std::vector<int64_t> rate, std::vector<int64_t> padding,
                                std::vector<int64_t> stride, int64_t groups, Text algorithm) {
  const char* op = "dilated_conv2d_transform";
  return with_error_kinds(op, [&] {
    const ArgumentInfo info = info_of("weight", weight);
    raise_if(check_rank(op, info, info.shape.size() == 4, "(O, C / groups, KH, KW)"));
    raise_if(check_input_size(op, input_size));
    // The packing does not depend on the batch.
    const ArgumentInfo input = {"input",
                                {1, info.shape[1] * groups, input_size[0], input_size[1]},
                                info.dtype,
                                info.dtype_name};
    ConvGeometry geometry;
    ConvAlgorithm kind;
    raise_if(check_transformable(op, info));
    raise_if(check_dilated_conv2d(
        op, {input, info, {}, {}, rate, padding, stride, groups, algorithm.value}, &geometry,
        &kind));
    Tensor transformed = empty_lasting(packed_layout(geometry, kind).size);
    with_torch_crew([&] {
      kernels().transform(geometry, kind, element_type(weight), weight_of(weight), torch_threads(),
                          mutable_data<float>(transformed));
    });
    return transformed;
  });
}

std::string dilated_conv2d_layout(std::vector<int64_t> input_size,
                                  std::vector<int64_t> weight_shape, std::vector<int64_t> rate,
                                  std::vector<int64_t> padding, std::vector<int64_t> stride,
                                  int64_t groups, Text algorithm) {
  const char* op = "dilated_conv2d_layout";
  return with_error_kinds(op, [&] {
    const ArgumentInfo weight = {"weight_shape", weight_shape, ScalarType::kFloat32, "float32"};
    raise_if(check_rank(op, weight, weight_shape.size() == 4, "(O, C / groups, KH, KW)"));
    raise_if(check_input_size(op, input_size));
    const ArgumentInfo input = {"input",
                                {1, weight_shape[1] * groups, input_size[0], input_size[1]},
                                ScalarType::kFloat32,
                                "float32"};
    ConvGeometry geometry;
    ConvAlgorithm kind;
    raise_if(check_dilated_conv2d(
        op, {input, weight, {}, {}, rate, padding, stride, groups, algorithm.value}, &geometry,
        &kind));
    return layout_text(packed_layout(geometry, kind));
  });
}

Tensor to_channels_last(const Tensor& image) {
  const char* op = "to_channels_last";
  return with_error_kinds(op, [&] {
    const ArgumentInfo info = info_of("image", image);
    raise_if(check_rank(op, info, info.shape.size() == 4, "(B, C, H, W)"));
    raise_if(check_dtype(op, info, "float32"));
    Tensor output = empty_image(image.size(0), image.size(1), image.size(2), image.size(3),
                                TensorType::Float, true);
    if (output.numel() == 0) return output;
    with_torch_crew([&] {
      kernels().to_pixels(view_of(image).as<const float>(), image.size(0), image.size(1),
                          image.size(2), image.size(3), torch_threads(),
                          mutable_data<float>(output));
    });
    return output;
  });
}

Tensor dilated_conv2d_transformed(const Tensor& input, const Tensor& transformed,
                                  std::optional<Tensor> bias, std::optional<Tensor> residual,
                                  std::vector<int64_t> weight_and_geometry, Text activation,
                                  Text algorithm) {
  const char* op = "dilated_conv2d_transformed";
  return with_error_kinds(op, [&] {
    Layer layer = {input, bias, residual, {}, {}, {}};
    const ArgumentInfo info = info_of("transformed", transformed);
    raise_if(check_layer_size(op, weight_and_geometry));
    auto next = weight_and_geometry.begin();
    const auto take = [&](int count) {
      next += count;
      return std::vector<int64_t>(next - count, next);
    };
    ConvArguments arguments = {info_of("input", input),
                               {"weight_shape", take(4), ScalarType::kFloat32, ""},
                               optional_info("bias", bias),
                               optional_info("residual", residual)};
    arguments.rate = take(2);
    arguments.padding = take(4);
    arguments.stride = take(2);
    arguments.groups = *next;
    arguments.algorithm = std::move(algorithm.value);
    raise_if(check_activation(op, activation.value, &layer.activation));
    raise_if(check_transformable(op, arguments.input));
    raise_if(check_dilated_conv2d(op, arguments, &layer.geometry, &layer.algorithm));
    raise_if(check_dtype(op, info, "float32"));
    const Tensor weights = packed(transformed);
    raise_if(check_transformed(op, info, data<float>(weights), layer.geometry, layer.algorithm));
    return convolve(layer, {nullptr, {}, data<float>(weights)});
  });
}

std::string dilated_conv2d_algorithm(std::vector<int64_t> input_shape,
                                     std::vector<int64_t> weight_shape, std::vector<int64_t> rate,
                                     std::vector<int64_t> padding, std::vector<int64_t> stride,
                                     int64_t groups, bool channels_last, Text accuracy,
                                     bool deterministic, bool transformed) {
  const char* op = "dilated_conv2d_algorithm";
  return with_error_kinds(op, [&] {
    ConvGeometry geometry;
    AlgorithmWishes wishes = {channels_last, false, deterministic, transformed};
    raise_if(check_accuracy(op, accuracy.value, &wishes.high_accuracy));
    raise_if(check_conv_geometry(op,
                                 {{"input_shape", input_shape, ScalarType::kFloat32, ""},
                                  {"weight_shape", weight_shape, ScalarType::kFloat32, ""},
                                  {},
                                  {},
                                  rate,
                                  padding,
                                  stride,
                                  groups,
                                  ""},
                                 &geometry));
    const std::optional<ConvAlgorithm> choice = choose_algorithm(geometry, wishes);
    return std::string(choice ? algorithm_name(*choice) : "torch");
  });
}

std::string dilated_conv2d_gpu_algorithm(std::vector<int64_t> input_shape,
                                         std::vector<int64_t> weight_shape,
                                         std::vector<int64_t> rate, std::vector<int64_t> padding,
                                         std::vector<int64_t> stride, int64_t groups, Text dtype,
                                         bool tf32, int64_t fused, bool deterministic,
                                         Text preferred) {
  const char* op = "dilated_conv2d_gpu_algorithm";
  return with_error_kinds(op, [&] {
    const ArgumentInfo input = {"input_shape", input_shape, ScalarType::kOther, dtype.value};
    raise_if(check_floating_image(op, input));
    ConvGeometry geometry;
    raise_if(check_conv_geometry(op,
                                 {input,
                                  {"weight_shape", weight_shape, ScalarType::kOther, dtype.value},
                                  {},
                                  {},
                                  rate,
                                  padding,
                                  stride,
                                  groups,
                                  ""},
                                 &geometry));
    const ElementType type = element_type(dtype.value);
    GemmPlan measured;
    const bool serves = !check_gemm_plan(op, preferred.value, geometry, type, &measured);
    if (serves && (tf32 || !measured.tf32)) return plan_name(measured);
    const std::optional<GemmPlan> plan = choose_on_gpu(geometry, type, tf32, fused, deterministic);
    return std::string(plan ? plan_name(*plan) : "torch");
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fastseg, m) {
  m.def(
      "dilated_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, int[2] rate, "
      "int[4] padding, int[2] stride, int groups, str activation, str algorithm) -> Tensor");
  m.def(
      "dilated_conv2d_transform(Tensor weight, int[2] input_size, int[2] rate, int[4] padding, "
      "int[2] stride, int groups, str algorithm) -> Tensor");
  m.def(
      "dilated_conv2d_transformed(Tensor input, Tensor transformed, Tensor? bias, "
      "Tensor? residual, int[] weight_and_geometry, str activation, str algorithm) -> Tensor");
  m.def(
      "dilated_conv2d_layout(int[2] input_size, int[] weight_shape, int[2] rate, int[4] padding, "
      "int[2] stride, int groups, str algorithm) -> str");
  m.def("to_channels_last(Tensor image) -> Tensor");
  m.def(
      "dilated_conv2d_algorithm(int[] input_shape, int[] weight_shape, int[2] rate, "
      "int[4] padding, int[2] stride, int groups, bool channels_last, str accuracy, "
      "bool deterministic, bool transformed) -> str");
  m.def(
      "dilated_conv2d_gpu_algorithm(int[] input_shape, int[] weight_shape, int[2] rate, "
      "int[4] padding, int[2] stride, int groups, str dtype, bool tf32, int fused, "
      "bool deterministic, str preferred) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) {
  m.impl("dilated_conv2d", TORCH_BOX(&dilated_conv2d));
  m.impl("dilated_conv2d_transform", TORCH_BOX(&dilated_conv2d_transform));
  m.impl("dilated_conv2d_transformed", TORCH_BOX(&dilated_conv2d_transformed));
  m.impl("to_channels_last", TORCH_BOX(&to_channels_last));
}

// No tensor, no device: one implementation for all.
STABLE_TORCH_LIBRARY_IMPL(fastseg, CompositeExplicitAutograd, m) {
  m.impl("dilated_conv2d_layout", TORCH_BOX(&dilated_conv2d_layout));
  m.impl("dilated_conv2d_algorithm", TORCH_BOX(&dilated_conv2d_algorithm));
  m.impl("dilated_conv2d_gpu_algorithm", TORCH_BOX(&dilated_conv2d_gpu_algorithm));
}

}  // namespace fastseg
