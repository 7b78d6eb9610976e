#include <memory>
#include <vector>

#include "../mean_field.h"
#include "binary_field.h"
#include "filter_kernel.h"
#include "label_field.h"

namespace fastseg {
namespace FASTSEG_ISA {
namespace {

class MeanFieldCpu : public MeanField {
 public:
  MeanFieldCpu(const std::vector<int64_t>& spatial, int64_t labels)
      : order_(spatial), labels_(labels) {}

  Error add_kernel(const KernelSpec& spec, Parallel parallel) override {
    FilterKernel kernel;
    if (Error error = kernel.build(order_, spec, labels_, parallel)) return error;
    kernels_.push_back(std::move(kernel));
    return {};
  }

  Error run(const float* unary, const float* initial, int64_t iterations, Parallel parallel,
            float* q) override {
    if (labels_ == 2 && initial == nullptr) {
      return BinaryField(order_, kernels_).run(unary, iterations, parallel, q);
    }
    Error error = unfold(parallel);
    if (error) return error;
    with_field([&](auto* type, int64_t groups) {
      std::remove_pointer_t<decltype(type)> field(order_, kernels_, labels_, groups);
      error = field.run(unary, initial, iterations, parallel, q);
    });
    return error;
  }

  Error message(const float* q, Parallel parallel, float* message) override {
    if (Error error = unfold(parallel)) return error;
    with_field([&](auto* type, int64_t groups) {
      std::remove_pointer_t<decltype(type)> field(order_, kernels_, labels_, groups);
      field.message(q, parallel, message);
    });
    return {};
  }

 private:
  Error unfold(Parallel parallel) {
    for (FilterKernel& kernel : kernels_) {
      if (Error error = kernel.unfold(order_, parallel)) return error;
    }
    return {};
  }

  // use(type, groups) with the LabelField for this number of labels: a row is one vector of four,
  // one to four vectors of eight, or several groups of three or four of them.
  template <typename Use>
  void with_field(Use&& use) {
    using V4 = Vec<float, 4>;
    using V8 = Vec<float, 8>;
    const int64_t vectors = (labels_ + kLanes - 1) / kLanes;
    const int64_t groups = (vectors + 3) / 4;
    const int64_t vectors_per_group = (vectors + groups - 1) / groups;
    if (labels_ <= 4) return use(static_cast<LabelField<V4, 1, true>*>(nullptr), 1);
    if (groups > 1 && vectors_per_group == 3) {
      return use(static_cast<LabelField<V8, 3, false>*>(nullptr), groups);
    }
    if (groups > 1) return use(static_cast<LabelField<V8, 4, false>*>(nullptr), groups);
    if (vectors == 1) return use(static_cast<LabelField<V8, 1, true>*>(nullptr), 1);
    if (vectors == 2) return use(static_cast<LabelField<V8, 2, true>*>(nullptr), 1);
    if (vectors == 3) return use(static_cast<LabelField<V8, 3, true>*>(nullptr), 1);
    return use(static_cast<LabelField<V8, 4, true>*>(nullptr), 1);
  }

  const PointOrder order_;
  const int64_t labels_;
  std::vector<FilterKernel> kernels_;
};

MeanField* create(const std::vector<int64_t>& spatial, int64_t labels) {
  return new MeanFieldCpu(spatial, labels);
}

}  // namespace

const MeanFieldKernels& mean_field_kernels() {
  static const MeanFieldKernels kernels = {create};
  return kernels;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
