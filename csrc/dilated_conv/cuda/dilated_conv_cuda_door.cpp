#include <algorithm>

#include "../../common/cuda_door.h"
#include "../dilated_conv_check.h"
#include "conv_cuda_door.h"

// Convolution on the GPU behind the torch operator.
namespace fastseg {
namespace {

Tensor dilated_conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                      std::optional<Tensor> residual, std::vector<int64_t> rate,
                      std::vector<int64_t> padding, std::vector<int64_t> stride, int64_t groups,
                      Text activation, Text algorithm) {
  const char* op = "dilated_conv2d";
  return with_error_kinds(op, [&] {
    const ConvArguments arguments = {info_of("input", input),
                                     info_of("weight", weight),
                                     optional_info("bias", bias),
                                     optional_info("residual", residual),
                                     rate,
                                     padding,
                                     stride,
                                     groups,
                                     algorithm.value};
    ConvGeometry g;
    GemmPlan plan;
    cuda::ConvTask task = {};
    task.type = element_type(input);
    raise_if(check_activation(op, activation.value, &task.activation));
    raise_if(check_conv_tensors(op, arguments, &g));
    raise_if(check_gemm_plan(op, algorithm.value, g, task.type, &plan));
    raise_if(check_same_dtype(op, arguments.input, arguments.weight));
    CudaCall call(op, input);
    Tensor output = empty_image(g.batch, g.out_channels, g.out_height(), g.out_width(),
                                input.scalar_type(), is_channels_last(input), input.device());
    if (output.numel() == 0) return output;
    if (bias) bias = packed(*bias);
    task.batch = g.batch;
    task.channels = g.in_channels;
    task.height = g.height;
    task.width = g.width;
    task.out_height = g.out_height();
    task.out_width = g.out_width();
    std::copy_n(g.stride, 2, task.stride);
    task.groups = g.groups;
    task.input = view_of(input);
    if (residual) task.residual = view_of(*residual);
    task.output = mutable_view_of(output);
    task.branches = {branch_of(g, weight, bias ? bias->const_data_ptr() : nullptr)};
    call.check(cuda::convolve(
        task, plan, [&](int64_t bytes) { return call.scratch(bytes); }, call.stream()));
    return output;
  });
}

}  // namespace

FASTSEG_CUDA_IMPL(m) { m.impl("dilated_conv2d", TORCH_BOX(&dilated_conv2d)); }

}  // namespace fastseg
