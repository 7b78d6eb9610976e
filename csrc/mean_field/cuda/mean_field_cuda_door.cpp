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

cuda::FieldStorage storage_of(const Tensor& unary) {
  switch (unary.scalar_type()) {
    case TensorType::Half:
      return cuda::FieldStorage::kHalf;
    case TensorType::BFloat16:
      return cuda::FieldStorage::kBFloat16;
    default:
      return cuda::FieldStorage::kFloat;
  }
}

// A call, and the tensors that it must keep.
struct Problem {
  const MeanFieldArguments& arguments;
  CudaCall& call;
  cuda::Field field;
  std::vector<Tensor> features, transforms;
  std::vector<int64_t> capacities;  // of the lattices

  void refuse_transform(size_t k) const {
    std::vector<float> values(transforms[k].numel());
    call.read(transforms[k].const_data_ptr(), values.size() * sizeof(float), values.data());
    raise_if(
        check_finite(kOp, arguments.transforms[k].name, values.data(), values.size(), serial()));
  }

  // As the CPU, which looks at the unary last.
  void read(const cuda::FieldStatus& status) {
    const size_t count = features.size();
    std::vector<unsigned char> found(status.bytes);
    call.read(status.on_device, status.bytes, found.data());
    const auto* lattices = reinterpret_cast<const cuda::LatticeStatus*>(found.data());
    const auto* unusable = reinterpret_cast<const uint64_t*>(lattices + count);
    for (size_t k = 0; k < count; ++k) {
      if (unusable[1 + k]) refuse_transform(k);
    }
    for (size_t k = 0; k < count; ++k) {
      raise_if(from_kernel(kOp, arguments.features[k].name, check_status(lattices[k])));
      capacities.push_back(lattices[k].vertices);
    }
    if (!unusable[0]) return;
    raise(value_error(kOp,
                      ": unary must hold no NaN and no -inf, and a finite energy for at least one "
                      "label of each pixel, got a pixel that breaks this"));
  }

  // What a captured call knows of the numbers of vertices: they are not more than contributions.
  void bound() {
    for (size_t k = 0; k < features.size(); ++k) {
      capacities.push_back(field.kernels[k].plan.contributions());
      if (capacities.back() <= INT32_MAX) continue;
      raise(value_error(kOp, ": ", arguments.features[k].name,
                        " must have fewer than 2^31 lattice vertices at most while the stream is "
                        "under capture, got ",
                        capacities.back(), ", B * N * (D + 1)"));
    }
  }
};

Tensor mean_field(const Tensor& unary, std::vector<Tensor> features, std::vector<Tensor> transforms,
                  int64_t iterations, std::vector<Text> normalizations, bool self_message) {
  return with_error_kinds(kOp, [&] {
    const MeanFieldArguments arguments =
        arguments_of(unary, features, transforms, iterations, normalizations);
    raise_if(check_mean_field(arguments));
    const std::vector<int64_t>& shape = arguments.unary.shape;
    const int64_t points = checked_product({shape.begin() + 2, shape.end()});
    if (shape[0] * points >= cuda::kLargestPixels) {
      raise(value_error(kOp, ": unary must have fewer than 2^32 pixels in a batch on CUDA, got ",
                        shape[0] * points));
    }
    CudaCall call(kOp, unary);
    const Tensor q = empty_tensor(shape, unary.scalar_type(), unary.device());
    if (q.numel() == 0) return q;
    const Tensor energies = packed(unary);
    const cuda::Allocate allocate = [&](int64_t bytes) { return call.scratch(bytes); };
    const cuda::Allocate brief = [&](int64_t bytes) { return call.brief_scratch(bytes); };
    Problem problem = {arguments, call, {}, {}, {}, {}};
    problem.field = {storage_of(unary),         shape[0], shape[1], points, self_message,
                     energies.const_data_ptr(), {},       allocate, brief,  call.stream()};
    for (size_t k = 0; k < features.size(); ++k) {
      problem.features.push_back(packed(features[k]));
      problem.transforms.push_back(packed(transforms[k]));
      cuda::FieldKernel kernel;
      kernel.features = data<float>(problem.features[k]);
      kernel.dims = features[k].size(1);
      kernel.normalization = normalization_of(normalizations[k].value);
      kernel.transform = data<float>(problem.transforms[k]);
      kernel.transform_size = transforms[k].numel();
      problem.field.kernels.push_back(kernel);
    }
    cuda::FieldStatus status = {};
    call.check(cuda::begin_field(&problem.field, &status));
    // All that is read back; what follows is enqueued without waiting.
    if (call.is_captured()) {
      problem.bound();
    } else {
      problem.read(status);
    }
    call.check(cuda::link_field(&problem.field, problem.capacities));
    call.give_back_brief_scratch();
    call.check(cuda::infer(&problem.field, iterations, q.mutable_data_ptr()));
    return q;
  });
}

}  // namespace

FASTSEG_CUDA_IMPL(m) { m.impl("mean_field", TORCH_BOX(&mean_field)); }

}  // namespace fastseg
