#include <algorithm>

#include "../../common/cuda_door.h"
#include "../../permutohedral/cuda/lattice_status.h"
#include "../mean_field_door.h"
#include "mean_field_cuda.h"

// Mean-field inference on the GPU behind the torch operator.
namespace fastseg {
namespace {

constexpr const char* kOp = "mean_field";

cuda::FieldNormalization normalization_of(const std::string& name) {
  switch (*normalization_from_name(name)) {
    case Normalization::kMean:
      return cuda::FieldNormalization::kMean;
    case Normalization::kBefore:
      return cuda::FieldNormalization::kBefore;
    case Normalization::kAfter:
      return cuda::FieldNormalization::kAfter;
    case Normalization::kSymmetric:
      return cuda::FieldNormalization::kSymmetric;
    default:
      return cuda::FieldNormalization::kNone;
  }
}

struct Problem {
  int64_t batch, labels, points;
  Tensor unary;  // (B, L, N)
  std::vector<Tensor> features, transforms;
};

// As the CPU, which looks at the unary last.
void refuse_unusable(const CudaCall& call, const MeanFieldArguments& arguments,
                     const Problem& problem, const std::vector<int32_t>& flags) {
  for (size_t k = 0; k < problem.transforms.size(); ++k) {
    if (!flags[1 + k]) continue;
    std::vector<float> values(problem.transforms[k].numel());
    call.read(problem.transforms[k].const_data_ptr(), values.size() * sizeof(float), values.data());
    raise_if(
        check_finite(kOp, arguments.transforms[k].name, values.data(), values.size(), serial()));
  }
  if (flags[0]) {
    raise(value_error(kOp,
                      ": unary must hold no NaN and no -inf, and a finite energy for at least one "
                      "label of each pixel, got a pixel that breaks this"));
  }
}

Tensor mean_field(const Tensor& unary, std::vector<Tensor> features, std::vector<Tensor> transforms,
                  int64_t iterations, std::vector<Text> normalizations, bool self_message) {
  return with_error_kinds(kOp, [&] {
    const MeanFieldArguments arguments =
        arguments_of(unary, features, transforms, iterations, normalizations);
    raise_if(check_mean_field(arguments));
    const std::vector<int64_t>& shape = arguments.unary.shape;
    CudaCall call(kOp, unary);
    Problem problem = {shape[0],      shape[1], checked_product({shape.begin() + 2, shape.end()}),
                       packed(unary), {},       {}};
    const Tensor q = empty_tensor(shape, TensorType::Float, unary.device());
    if (q.numel() == 0) return q;
    const cuda::Allocate allocate = [&](int64_t bytes) { return call.scratch(bytes); };
    std::vector<cuda::FieldKernel> kernels(features.size());
    for (size_t k = 0; k < kernels.size(); ++k) {
      problem.features.push_back(packed(features[k]));
      problem.transforms.push_back(packed(transforms[k]));
      kernels[k].transform = data<float>(problem.transforms[k]);
      kernels[k].transform_size = transforms[k].numel();
      call.check(cuda::place_kernel(data<float>(problem.features[k]), problem.batch,
                                    features[k].size(1), problem.points, allocate, call.stream(),
                                    &kernels[k]));
    }
    const auto* energies = data<float>(problem.unary);
    auto* flags = static_cast<int32_t*>(
        call.scratch(static_cast<int64_t>((1 + kernels.size()) * sizeof(int32_t))));
    call.check(cuda::check_field(energies, kernels, problem.batch, problem.labels, problem.points,
                                 call.stream(), flags));
    // All that is read back; the updates are enqueued without waiting.
    std::vector<int32_t> found(1 + kernels.size());
    call.read(flags, static_cast<int64_t>(found.size() * sizeof(int32_t)), found.data());
    if (std::any_of(found.begin() + 1, found.end(), [](int32_t flag) { return flag != 0; })) {
      refuse_unusable(call, arguments, problem, found);
    }
    for (size_t k = 0; k < kernels.size(); ++k) {
      cuda::LatticeStatus status;
      call.read(kernels[k].plan.status, sizeof(status), &status);
      raise_if(
          from_kernel(kOp, arguments.features[k].name, check_status(status, kernels[k].plan.dims)));
      call.check(cuda::finish_kernel(status.vertices, normalization_of(normalizations[k].value),
                                     self_message, problem.labels, allocate, call.stream(),
                                     &kernels[k]));
    }
    refuse_unusable(call, arguments, problem, found);
    call.check(cuda::infer(energies, kernels, problem.batch, problem.labels, problem.points,
                           iterations, allocate, call.stream(), mutable_data<float>(q)));
    return q;
  });
}

}  // namespace

FASTSEG_CUDA_IMPL(m) { m.impl("mean_field", TORCH_BOX(&mean_field)); }

}  // namespace fastseg
