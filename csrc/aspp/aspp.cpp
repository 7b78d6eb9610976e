#include "aspp.h"

#include "../common/instruction_set.h"
#include "../dilated_conv/dilated_conv_check.h"
#include "aspp_check.h"
#include "aspp_door.h"

// Atrous spatial pyramid pooling as torch operators: schema, and the CPU door.
namespace fastseg {
namespace {

const AsppKernels& kernels() { return instruction_set().aspp; }

Tensor run(AsppCall* call, const Tensor& input, const std::vector<Tensor>& biases) {
  Tensor output = empty_image(call->batch, call->out_channels(), call->height, call->width,
                              input.scalar_type(), is_channels_last(input));
  if (output.numel() == 0) return output;
  std::vector<Tensor> packed_biases;
  for (size_t i = 0; i < biases.size(); ++i) {
    packed_biases.push_back(packed(biases[i]));
    call->branches[i].bias = packed_biases.back().const_data_ptr();
  }
  call->input = view_of(input);
  call->output = mutable_view_of(output);
  with_torch_crew([&] { kernels().run(*call, torch_threads()); });
  return output;
}

Tensor aspp(const Tensor& input, std::vector<Tensor> weights, std::vector<Tensor> biases,
            std::vector<int64_t> rates, Text combine, Text activation, Text accuracy,
            Text algorithm) {
  const char* op = "aspp";
  return with_error_kinds(op, [&] {
    if (algorithm.value != "auto") {
      raise(value_error(op, ": algorithm must be 'auto' on the CPU, got '", algorithm.value, "'"));
    }
    AsppCall call = {};
    call.type = element_type(input);
    raise_if(check_aspp(
        op,
        {info_of("input", input), infos_of("weights", weights), infos_of("biases", biases), rates,
         combine.value, activation.value, accuracy.value},
        true, &call));
    for (size_t i = 0; i < weights.size(); ++i) call.branches[i].weight = weight_of(weights[i]);
    return run(&call, input, biases);
  });
}

Tensor aspp_transform(std::vector<Tensor> weights, std::vector<int64_t> input_size,
                      std::vector<int64_t> rates, Text combine, Text accuracy) {
  const char* op = "aspp_transform";
  return with_error_kinds(op, [&] {
    raise_if(check_input_size(op, input_size));
    const std::vector<ArgumentInfo> infos = infos_of("weights", weights);
    if (infos.empty()) raise(value_error(op, ": weights must have at least one entry, got 0"));
    raise_if(check_rank(op, infos[0], infos[0].shape.size() == 4, "(O, C, KH, KW)"));
    raise_if(check_transformable(op, infos[0]));
    const ArgumentInfo input = {"input",
                                {1, infos[0].shape[1], input_size[0], input_size[1]},
                                infos[0].dtype,
                                infos[0].dtype_name};
    AsppCall call = {};
    call.type = element_type(weights[0]);
    raise_if(check_aspp(op, {input, infos, {}, rates, combine.value, "none", accuracy.value}, true,
                        &call));
    for (size_t i = 0; i < weights.size(); ++i) call.branches[i].weight = weight_of(weights[i]);
    Tensor transformed = empty_lasting(aspp_packed_size(call));
    with_torch_crew(
        [&] { kernels().transform(call, torch_threads(), mutable_data<float>(transformed)); });
    return transformed;
  });
}

// The weights of branches that are given as shapes, one after the other.
std::vector<ArgumentInfo> weights_of(const char* op, const std::vector<int64_t>& weight_shapes) {
  std::vector<ArgumentInfo> weights;
  if (weight_shapes.size() % 4 != 0) {
    raise(value_error(op, ": weight_shapes must have four entries for each weight, got ",
                      weight_shapes.size()));
  }
  for (size_t i = 0; i < weight_shapes.size(); i += 4) {
    weights.push_back({"weight_shapes[" + std::to_string(i / 4) + "]",
                       {weight_shapes.begin() + i, weight_shapes.begin() + i + 4},
                       ScalarType::kFloat32,
                       "float32"});
  }
  return weights;
}

std::string aspp_layout(std::vector<int64_t> input_size, std::vector<int64_t> weight_shapes,
                        std::vector<int64_t> rates, Text combine, Text accuracy) {
  const char* op = "aspp_layout";
  return with_error_kinds(op, [&] {
    raise_if(check_input_size(op, input_size));
    const std::vector<ArgumentInfo> weights = weights_of(op, weight_shapes);
    if (weights.empty()) raise(value_error(op, ": weight_shapes must not be empty"));
    const ArgumentInfo input = {"input",
                                {1, weights[0].shape[1], input_size[0], input_size[1]},
                                ScalarType::kFloat32,
                                "float32"};
    AsppCall call = {};
    call.type = ElementType::kFloat;
    raise_if(check_aspp(op, {input, weights, {}, rates, combine.value, "none", accuracy.value},
                        true, &call));
    return aspp_layout_text(call);
  });
}

Tensor aspp_transformed(const Tensor& input, const Tensor& transformed, std::vector<Tensor> biases,
                        std::vector<int64_t> weight_shapes, std::vector<int64_t> rates,
                        Text combine, Text activation, Text accuracy) {
  const char* op = "aspp_transformed";
  return with_error_kinds(op, [&] {
    const std::vector<ArgumentInfo> weights = weights_of(op, weight_shapes);
    AsppCall call = {};
    call.type = element_type(input);
    const ArgumentInfo image = info_of("input", input), info = info_of("transformed", transformed);
    raise_if(check_transformable(op, image));
    raise_if(check_aspp(op,
                        {image, weights, infos_of("biases", biases), rates, combine.value,
                         activation.value, accuracy.value},
                        false, &call));
    raise_if(check_dtype(op, info, "float32"));
    const Tensor values = packed(transformed);
    raise_if(check_aspp_transformed(op, info, data<float>(values), call));
    call.packed = data<float>(values);
    return run(&call, input, biases);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fastseg, m) {
  m.def(
      "aspp(Tensor input, Tensor[] weights, Tensor[] biases, int[] rates, str combine, "
      "str activation, str accuracy, str algorithm=\"auto\") -> Tensor");
  m.def(
      "aspp_transform(Tensor[] weights, int[2] input_size, int[] rates, str combine, "
      "str accuracy) -> Tensor");
  m.def(
      "aspp_layout(int[2] input_size, int[] weight_shapes, int[] rates, str combine, "
      "str accuracy) -> str");
  m.def(
      "aspp_transformed(Tensor input, Tensor transformed, Tensor[] biases, int[] weight_shapes, "
      "int[] rates, str combine, str activation, str accuracy) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) {
  m.impl("aspp", TORCH_BOX(&aspp));
  m.impl("aspp_transform", TORCH_BOX(&aspp_transform));
  m.impl("aspp_transformed", TORCH_BOX(&aspp_transformed));
}

// No tensor, no device: one implementation for all.
STABLE_TORCH_LIBRARY_IMPL(fastseg, CompositeExplicitAutograd, m) {
  m.impl("aspp_layout", TORCH_BOX(&aspp_layout));
}

}  // namespace fastseg
