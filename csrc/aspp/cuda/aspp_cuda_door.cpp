#include "../../common/cuda_door.h"
#include "../../dilated_conv/cuda/conv_cuda_door.h"
#include "../../dilated_conv/dilated_conv_check.h"
#include "../aspp_check.h"
#include "../aspp_door.h"

// Spatial pyramid pooling on the GPU behind the torch operator: one convolution whose taps are
// those of all branches, or of each slice of the outputs its own branch's.
namespace fastseg {
namespace {

// The plan named, or for "auto" and "auto-tf32" that which costs least.
Error plan_of(const char* op, const AsppCall& call, const std::string& name, GemmPlan* plan) {
  const bool tf32 = name == "auto-tf32" && call.type == ElementType::kFloat;
  const bool chosen = name == "auto" || name == "auto-tf32";
  GemmProblem problem = {call.type, call.batch * call.height * call.width, {}, {}};
  bool tiles = true;
  for (const AsppBranch& branch : call.branches) {
    const ConvGeometry geometry = call.geometry(branch);
    if (!chosen) FASTSEG_RETURN_IF_ERROR(check_gemm_plan(op, name, geometry, call.type, plan));
    tiles &= gemm_serves(geometry, call.type);
    if (call.concat || problem.outputs.empty()) {
      problem.outputs.push_back(branch.out_channels);
      problem.depths.push_back(0);
    }
    problem.depths.back() += seen_depth(geometry);
  }
  if (chosen) *plan = tiles ? choose_gemm(problem, tf32) : GemmPlan{};
  return {};
}

Tensor aspp(const Tensor& input, std::vector<Tensor> weights, std::vector<Tensor> biases,
            std::vector<int64_t> rates, Text combine, Text activation, Text accuracy,
            Text algorithm) {
  const char* op = "aspp";
  return with_error_kinds(op, [&] {
    AsppCall pyramid = {};
    pyramid.type = element_type(input);
    raise_if(check_aspp(
        op,
        {info_of("input", input), infos_of("weights", weights), infos_of("biases", biases), rates,
         combine.value, activation.value, accuracy.value},
        true, &pyramid));
    GemmPlan plan;
    raise_if(plan_of(op, pyramid, algorithm.value, &plan));
    CudaCall call(op, input);
    Tensor output =
        empty_image(pyramid.batch, pyramid.out_channels(), pyramid.height, pyramid.width,
                    input.scalar_type(), is_channels_last(input), input.device());
    if (output.numel() == 0) return output;
    cuda::ConvTask task = {pyramid.type,
                           pyramid.batch,
                           pyramid.channels,
                           pyramid.height,
                           pyramid.width,
                           pyramid.height,
                           pyramid.width,
                           {1, 1},
                           1,
                           pyramid.concat,
                           pyramid.activation,
                           view_of(input),
                           {},
                           mutable_view_of(output),
                           {}};
    for (Tensor& bias : biases) bias = packed(bias);
    for (size_t i = 0; i < weights.size(); ++i) {
      task.branches.push_back(branch_of(pyramid.geometry(pyramid.branches[i]), weights[i],
                                        biases.empty() ? nullptr : biases[i].const_data_ptr()));
    }
    call.check(cuda::convolve(
        task, plan, [&](int64_t bytes) { return call.scratch(bytes); }, call.stream()));
    return output;
  });
}

}  // namespace

FASTSEG_CUDA_IMPL(m) { m.impl("aspp", TORCH_BOX(&aspp)); }

}  // namespace fastseg
