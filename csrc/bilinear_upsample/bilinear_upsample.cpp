#include <optional>

#include "../common/instruction_set.h"
#include "bilinear_upsample_door.h"

// Bilinear upsampling as torch operators: schema, and the CPU's kernels behind the door.
namespace fastseg {
namespace {

double number_of(const Tensor& scalar) {
  return scalar.scalar_type() == TensorType::Double ? *data<double>(scalar) : *data<float>(scalar);
}

int64_t label_at(const Tensor& labels, int64_t place) {
  return labels.scalar_type() == TensorType::Byte ? data<uint8_t>(labels)[place]
                                                  : data<int64_t>(labels)[place];
}

Error wrong_label(const CrossEntropyCall& call, const Tensor& labels, int64_t place) {
  const int64_t rows = labels.size(1), columns = labels.size(2);
  return value_error(
      call.op, ": labels must be in [0, ", call.logits.size(1), ") or ignore_index, ",
      call.ignore_index, ", got ", label_at(labels, place), " at ",
      shape_text({place / (rows * columns), place / columns % rows, place % columns}));
}

struct CpuBackend {
  static constexpr bool kClassesInPlanes = false;
  const BilinearUpsampleKernels& kernels = instruction_set().bilinear_upsample;

  CpuBackend(const char*, const Tensor&) {}

  void upsample(const void* input, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                void* output) const {
    kernels.upsample(input, layout, geometry, torch_threads(), output);
  }
  void upsample_backward(const void* grad, const ScoreLayout& layout,
                         const UpsampleGeometry& geometry, void* grad_input) const {
    with_torch_crew(
        [&] { kernels.upsample_backward(grad, layout, geometry, torch_threads(), grad_input); });
  }
  void argmax(const void* logits, const ScoreLayout& layout, const UpsampleGeometry& geometry,
              bool byte_labels, void* labels) const {
    with_torch_crew(
        [&] { kernels.argmax(logits, layout, geometry, byte_labels, torch_threads(), labels); });
  }
  void softmax(const void* logits, const ScoreLayout& layout, const UpsampleGeometry& geometry,
               void* probs) const {
    with_torch_crew([&] { kernels.softmax(logits, layout, geometry, torch_threads(), probs); });
  }
  void softmax_backward(const void* grad, const void* probs, const ScoreLayout& layout,
                        const UpsampleGeometry& geometry, void* grad_logits) const {
    with_torch_crew([&] {
      kernels.softmax_backward(grad, probs, layout, geometry, torch_threads(), grad_logits);
    });
  }

  void cross_entropy(const CrossEntropyOperands& operands) const {
    const CrossEntropyCall& call = operands.call;
    const CrossEntropyResult& result = operands.result;
    const std::optional<Tensor>&weight = operands.weight, &pixel_weight = operands.pixel_weight,
          &grad_loss = operands.grad_loss;
    const bool map = operands.reduction == Reduction::kNone;
    const CrossEntropyTask task = {
        operands.logits.const_data_ptr(),
        operands.labels.const_data_ptr(),
        operands.labels.scalar_type() == TensorType::Byte,
        weight ? weight->const_data_ptr() : nullptr,
        pixel_weight ? pixel_weight->const_data_ptr() : nullptr,
        call.ignore_index,
        operands.reduction,
        map && grad_loss ? grad_loss->const_data_ptr() : nullptr,
        !map && grad_loss ? number_of(*grad_loss) : 1.0,
        map && call.want_loss ? result.loss->mutable_data_ptr() : nullptr,
        call.want_grad ? result.grad->mutable_data_ptr() : nullptr,
        call.want_loss};
    CrossEntropySums sums = {0.0, 0.0, 0, -1};
    if (operands.labels.numel() > 0) {
      with_torch_crew([&] {
        sums = kernels.cross_entropy(task, operands.layout, operands.geometry, torch_threads());
      });
    }
    if (sums.wrong >= 0) raise(wrong_label(call, operands.labels, sums.wrong));
    if (call.want_loss && !map) write_loss(operands, sums);
  }

  static void write_loss(const CrossEntropyOperands& operands, const CrossEntropySums& sums) {
    const bool mean = operands.reduction == Reduction::kMean;
    const double loss = mean ? sums.loss / sums.weight : sums.loss;
    const Tensor& to = *operands.result.loss;
    if (to.scalar_type() == TensorType::Double) {
      *mutable_data<double>(to) = loss;
    } else {
      *mutable_data<float>(to) = static_cast<float>(loss);
    }
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fastseg, m) {
  m.def(
      "bilinear_upsample(Tensor input, SymInt[] size, bool align_corners, float? scale_height, "
      "float? scale_width) -> Tensor");
  m.def(
      "bilinear_upsample_backward(Tensor grad, SymInt[] input_size, bool align_corners, "
      "float? scale_height, float? scale_width) -> Tensor");
  m.def(
      "upsample_argmax(Tensor logits, SymInt[] size, str dtype, bool align_corners, "
      "float? scale_height, float? scale_width) -> Tensor");
  m.def(
      "upsample_softmax(Tensor logits, SymInt[] size, bool align_corners, float? scale_height, "
      "float? scale_width) -> Tensor");
  m.def(
      "upsample_softmax_backward(Tensor grad, Tensor probs, SymInt[] input_size, "
      "bool align_corners, float? scale_height, float? scale_width) -> Tensor");
  m.def(
      "upsample_cross_entropy(Tensor logits, Tensor labels, Tensor? weight, Tensor? pixel_weight, "
      "int ignore_index, str reduction, bool align_corners, float? scale_height, "
      "float? scale_width) -> Tensor");
  m.def(
      "upsample_cross_entropy_and_gradient(Tensor logits, Tensor labels, Tensor? weight, "
      "Tensor? pixel_weight, int ignore_index, str reduction, bool align_corners, "
      "float? scale_height, float? scale_width) -> (Tensor loss, Tensor gradient)");
  m.def(
      "upsample_cross_entropy_backward(Tensor grad, Tensor logits, Tensor labels, Tensor? weight, "
      "Tensor? pixel_weight, int ignore_index, str reduction, bool align_corners, "
      "float? scale_height, float? scale_width) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) { implement_bilinear_upsample<CpuBackend>(m); }

}  // namespace fastseg
