#include "mean_field.h"

#include <memory>

#include "../common/instruction_set.h"
#include "../common/torch_door.h"
#include "mean_field_door.h"

// Mean-field inference as a torch operator: schema, and the CPU door.
namespace fastseg {
namespace {

constexpr const char* kOp = "mean_field";

// Below this many pixels an image is too small to share out: images are, where there are several.
constexpr int64_t kSharedOutPixels = 16384;

struct Batch {
  std::vector<int64_t> spatial;
  int64_t labels, points, iterations;
  Tensor unary, q;                  // (B, L, N)
  std::vector<Tensor> features;     // each (B, D, N)
  std::vector<KernelSpec> kernels;  // `features` of the first image
  std::vector<Tensor> transforms;   // what `kernels` points into
};

Error infer_image(const Batch& batch, int64_t image, Parallel parallel) {
  const std::unique_ptr<MeanField> field(
      instruction_set().mean_field.create(batch.spatial, batch.labels));
  for (size_t k = 0; k < batch.kernels.size(); ++k) {
    KernelSpec kernel = batch.kernels[k];
    kernel.features += image * kernel.dims * batch.points;
    FASTSEG_RETURN_IF_ERROR(from_kernel(kOp, "features[" + std::to_string(k) + "]",
                                        field->add_kernel(kernel, parallel)));
  }
  const int64_t offset = image * batch.labels * batch.points;
  return from_kernel(kOp, "unary",
                     field->run(data<float>(batch.unary) + offset, nullptr, batch.iterations,
                                parallel, mutable_data<float>(batch.q) + offset));
}

// Both ways give equal bits: kernels do not know who runs their tasks.
void infer(const Batch& batch, int64_t images) {
  std::vector<Error> errors(images);
  if (images > 1 && batch.points < kSharedOutPixels) {
    torch_threads()(images, [&](int64_t i) { errors[i] = infer_image(batch, i, serial()); });
  } else {
    with_torch_crew([&] {
      for (int64_t i = 0; i < images; ++i) errors[i] = infer_image(batch, i, torch_threads());
    });
  }
  for (const Error& error : errors) raise_if(error);
}

// The tensor as it is, or in another type.
Tensor in_type(const Tensor& tensor, TensorType type) {
  if (tensor.scalar_type() == type) return tensor;
  Tensor converted = empty_tensor(shape_of(tensor), type);
  torch::stable::copy_(converted, tensor);
  return converted;
}

Tensor mean_field(const Tensor& unary, std::vector<Tensor> features, std::vector<Tensor> transforms,
                  int64_t iterations, std::vector<Text> normalizations, bool self_message) {
  return with_error_kinds(kOp, [&] {
    const MeanFieldArguments arguments =
        arguments_of(unary, features, transforms, iterations, normalizations);
    raise_if(check_mean_field(arguments));
    const std::vector<int64_t>& shape = arguments.unary.shape;
    Batch batch = {{shape.begin() + 2, shape.end()}, shape[1], 0, iterations, {}, {}, {}, {}, {}};
    batch.points = checked_product(batch.spatial);
    for (size_t k = 0; k < features.size(); ++k) {
      batch.features.push_back(packed(features[k]));
      batch.transforms.push_back(packed(transforms[k]));
      const float* transform = data<float>(batch.transforms[k]);
      const int64_t transform_size = transforms[k].numel();
      raise_if(
          check_finite(kOp, arguments.transforms[k].name, transform, transform_size, serial()));
      batch.kernels.push_back({data<float>(batch.features[k]), features[k].size(1),
                               *normalization_from_name(normalizations[k].value), transform,
                               transform_size, self_message});
    }
    batch.unary = packed(in_type(unary, TensorType::Float));
    batch.q = empty_tensor(shape, TensorType::Float);
    infer(batch, shape[0]);
    return in_type(batch.q, unary.scalar_type());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fastseg, m) {
  m.def(
      "mean_field(Tensor unary, Tensor[] features, Tensor[] transforms, int iterations, "
      "str[] normalizations, bool self_message) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) { m.impl("mean_field", TORCH_BOX(&mean_field)); }

}  // namespace fastseg
