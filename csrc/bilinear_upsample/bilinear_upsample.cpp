#include "bilinear_upsample.h"

#include <array>
#include <optional>
#include <tuple>

#include "../common/instruction_set.h"
#include "../common/torch_door.h"
#include "bilinear_upsample_check.h"

// Bilinear upsampling as torch operators: schema, and the CPU door.
namespace fastseg {
namespace {

using torch::headeronly::MemoryFormat;
using Size = std::vector<int64_t>;

const BilinearUpsampleKernels& kernels() { return instruction_set().bilinear_upsample; }

ScoreType score_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case TensorType::Double:
      return ScoreType::kDouble;
    case TensorType::Half:
      return ScoreType::kHalf;
    case TensorType::BFloat16:
      return ScoreType::kBFloat16;
    default:
      return ScoreType::kFloat;
  }
}

// The type that is computed in, in which weights are read and losses are returned.
TensorType arithmetic_type(const Tensor& scores) {
  return scores.scalar_type() == TensorType::Double ? TensorType::Double : TensorType::Float;
}

// The memory format that the output takes over; contiguous ones of a single channel or pixel are
// NCHW.
bool is_channels_last(const Tensor& scores) {
  return scores.size(1) > 1 && scores.stride(1) == 1 && !scores.is_contiguous();
}

// Unlike torch::stable's functions, says nothing on stderr where memory lacks.
Tensor dispatch(const char* op, const char* overload, StableIValue* stack) {
  if (torch_call_dispatcher(op, overload, stack, TORCH_ABI_VERSION) != TORCH_SUCCESS) {
    throw std::bad_alloc();
  }
  return torch::stable::detail::to<Tensor>(stack[0]);
}

MemoryFormat format_of(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// The scores in memory without gaps, and that memory's layout.
Tensor dense_scores(const Tensor& scores, bool channels_last) {
  using torch::stable::detail::from;
  std::array<StableIValue, 2> stack = {from(scores), from(format_of(channels_last))};
  return dispatch("aten::contiguous", "", stack.data());
}

ScoreLayout layout_of(const Tensor& scores, bool channels_last) {
  return {score_type(scores), scores.size(0), scores.size(1), channels_last};
}

Tensor bilinear_upsample(const Tensor& input, Size size, bool align_corners,
                         std::optional<double> scale_height, std::optional<double> scale_width) {
  const char* op = "bilinear_upsample";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    raise_if(check_upsample(op, info_of("input", input), size,
                            {align_corners, scale_height, scale_width}, &geometry));
    const bool last = is_channels_last(input);
    const Tensor source = dense_scores(input, last);
    Tensor output =
        empty_image(input.size(0), input.size(1), size[0], size[1], input.scalar_type(), last);
    if (output.numel() == 0) return output;
    kernels().upsample(source.const_data_ptr(), layout_of(source, last), geometry, torch_threads(),
                       output.mutable_data_ptr());
    return output;
  });
}

Tensor bilinear_upsample_backward(const Tensor& grad, Size input_size, bool align_corners,
                                  std::optional<double> scale_height,
                                  std::optional<double> scale_width) {
  const char* op = "bilinear_upsample_backward";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    raise_if(check_upsample_backward(op, info_of("grad", grad), input_size,
                                     {align_corners, scale_height, scale_width}, &geometry));
    const bool last = is_channels_last(grad);
    const Tensor source = dense_scores(grad, last);
    Tensor grad_input = empty_image(grad.size(0), grad.size(1), input_size[0], input_size[1],
                                    grad.scalar_type(), last);
    if (grad_input.numel() == 0) return grad_input;
    with_torch_crew([&] {
      kernels().upsample_backward(source.const_data_ptr(), layout_of(source, last), geometry,
                                  torch_threads(), grad_input.mutable_data_ptr());
    });
    return grad_input;
  });
}

Tensor upsample_argmax(const Tensor& logits, Size size, Text dtype, bool align_corners,
                       std::optional<double> scale_height, std::optional<double> scale_width) {
  const char* op = "upsample_argmax";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    const ArgumentInfo info = info_of("logits", logits);
    raise_if(check_upsample(op, info, size, {align_corners, scale_height, scale_width}, &geometry));
    raise_if(check_upsample_argmax(op, info, dtype.value));
    const bool bytes = dtype.value == "uint8", last = is_channels_last(logits);
    const Tensor source = dense_scores(logits, last);
    Tensor labels = empty_tensor({logits.size(0), size[0], size[1]},
                                 bytes ? TensorType::Byte : TensorType::Long);
    if (labels.numel() == 0) return labels;
    with_torch_crew([&] {
      kernels().argmax(source.const_data_ptr(), layout_of(source, last), geometry, bytes,
                       torch_threads(), labels.mutable_data_ptr());
    });
    return labels;
  });
}

Tensor upsample_softmax(const Tensor& logits, Size size, bool align_corners,
                        std::optional<double> scale_height, std::optional<double> scale_width) {
  const char* op = "upsample_softmax";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    raise_if(check_upsample(op, info_of("logits", logits), size,
                            {align_corners, scale_height, scale_width}, &geometry));
    const bool last = is_channels_last(logits);
    const Tensor source = dense_scores(logits, last);
    Tensor probs =
        empty_image(logits.size(0), logits.size(1), size[0], size[1], logits.scalar_type(), last);
    if (probs.numel() == 0) return probs;
    with_torch_crew([&] {
      kernels().softmax(source.const_data_ptr(), layout_of(source, last), geometry, torch_threads(),
                        probs.mutable_data_ptr());
    });
    return probs;
  });
}

Tensor upsample_softmax_backward(const Tensor& grad, const Tensor& probs, Size input_size,
                                 bool align_corners, std::optional<double> scale_height,
                                 std::optional<double> scale_width) {
  const char* op = "upsample_softmax_backward";
  return with_error_kinds(op, [&] {
    UpsampleGeometry geometry;
    const ArgumentInfo info = info_of("probs", probs);
    raise_if(check_upsample_backward(op, info, input_size,
                                     {align_corners, scale_height, scale_width}, &geometry));
    raise_if(check_same_scores(op, info, info_of("grad", grad)));
    const bool last = is_channels_last(probs);
    const Tensor weights = dense_scores(probs, last), source = dense_scores(grad, last);
    Tensor grad_logits = empty_image(probs.size(0), probs.size(1), input_size[0], input_size[1],
                                     probs.scalar_type(), last);
    if (grad_logits.numel() == 0) return grad_logits;
    with_torch_crew([&] {
      kernels().softmax_backward(source.const_data_ptr(), weights.const_data_ptr(),
                                 layout_of(weights, last), geometry, torch_threads(),
                                 grad_logits.mutable_data_ptr());
    });
    return grad_logits;
  });
}

// Everything that the three operators of the cross-entropy share.
struct CrossEntropyCall {
  const char* op;
  const Tensor& logits;
  const Tensor& labels;
  const std::optional<Tensor>& weight;
  const std::optional<Tensor>& pixel_weight;
  int64_t ignore_index;
  const Text& reduction;
  PlacementArguments placement;
  std::optional<Tensor> grad;  // that reached the loss
  bool want_loss, want_grad;
};

struct CrossEntropyResult {
  std::optional<Tensor> loss, grad;
};

std::optional<ArgumentInfo> optional_info(const char* name, const std::optional<Tensor>& tensor) {
  if (!tensor) return std::nullopt;
  return info_of(name, *tensor);
}

// Contiguous and of the type that is computed in.
std::optional<Tensor> operand(const std::optional<Tensor>& tensor, TensorType type) {
  if (!tensor) return std::nullopt;
  if (tensor->scalar_type() == type) return packed(*tensor);
  return packed(torch::stable::to(*tensor, type));
}

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

CrossEntropyResult cross_entropy(const CrossEntropyCall& call) {
  return with_error_kinds(call.op, [&] {
    UpsampleGeometry geometry;
    Reduction reduction;
    const CrossEntropyArguments arguments = {info_of("logits", call.logits),
                                             info_of("labels", call.labels),
                                             optional_info("weight", call.weight),
                                             optional_info("pixel_weight", call.pixel_weight),
                                             call.reduction.value,
                                             optional_info("grad", call.grad)};
    raise_if(
        check_upsample_cross_entropy(call.op, arguments, call.placement, &geometry, &reduction));
    const bool last = is_channels_last(call.logits), map = reduction == Reduction::kNone;
    const TensorType type = arithmetic_type(call.logits);
    const Tensor logits = dense_scores(call.logits, last), labels = packed(call.labels);
    const std::optional<Tensor> weight = operand(call.weight, type);
    const std::optional<Tensor> pixel_weight = operand(call.pixel_weight, type);
    const std::optional<Tensor> grad_loss = operand(call.grad, type);
    CrossEntropyResult result;
    if (call.want_loss) result.loss = empty_tensor(map ? shape_of(labels) : Size{}, type);
    if (call.want_grad) {
      result.grad = empty_image(logits.size(0), logits.size(1), logits.size(2), logits.size(3),
                                call.want_loss ? type : logits.scalar_type(), last);
    }
    const CrossEntropyTask task = {
        logits.const_data_ptr(),
        labels.const_data_ptr(),
        labels.scalar_type() == TensorType::Byte,
        weight ? weight->const_data_ptr() : nullptr,
        pixel_weight ? pixel_weight->const_data_ptr() : nullptr,
        call.ignore_index,
        reduction,
        map && grad_loss ? grad_loss->const_data_ptr() : nullptr,
        !map && grad_loss ? number_of(*grad_loss) : 1.0,
        map && call.want_loss ? result.loss->mutable_data_ptr() : nullptr,
        call.want_grad ? result.grad->mutable_data_ptr() : nullptr,
        call.want_loss};
    CrossEntropySums sums = {0.0, 0.0, 0, -1};
    if (labels.numel() > 0) {
      with_torch_crew([&] {
        sums = kernels().cross_entropy(task, layout_of(logits, last), geometry, torch_threads());
      });
    }
    if (sums.wrong >= 0) raise(wrong_label(call, labels, sums.wrong));
    if (call.want_loss && !map) {
      const double loss = reduction == Reduction::kMean ? sums.loss / sums.weight : sums.loss;
      if (type == TensorType::Double) {
        *mutable_data<double>(*result.loss) = loss;
      } else {
        *mutable_data<float>(*result.loss) = static_cast<float>(loss);
      }
    }
    return result;
  });
}

Tensor upsample_cross_entropy(const Tensor& logits, const Tensor& labels,
                              std::optional<Tensor> weight, std::optional<Tensor> pixel_weight,
                              int64_t ignore_index, Text reduction, bool align_corners,
                              std::optional<double> scale_height,
                              std::optional<double> scale_width) {
  const PlacementArguments placement = {align_corners, scale_height, scale_width};
  return *cross_entropy({"upsample_cross_entropy", logits, labels, weight, pixel_weight,
                         ignore_index, reduction, placement, std::nullopt, true, false})
              .loss;
}

std::tuple<Tensor, Tensor> upsample_cross_entropy_and_gradient(
    const Tensor& logits, const Tensor& labels, std::optional<Tensor> weight,
    std::optional<Tensor> pixel_weight, int64_t ignore_index, Text reduction, bool align_corners,
    std::optional<double> scale_height, std::optional<double> scale_width) {
  const PlacementArguments placement = {align_corners, scale_height, scale_width};
  const CrossEntropyResult result =
      cross_entropy({"upsample_cross_entropy", logits, labels, weight, pixel_weight, ignore_index,
                     reduction, placement, std::nullopt, true, true});
  return {*result.loss, *result.grad};
}

Tensor upsample_cross_entropy_backward(const Tensor& grad, const Tensor& logits,
                                       const Tensor& labels, std::optional<Tensor> weight,
                                       std::optional<Tensor> pixel_weight, int64_t ignore_index,
                                       Text reduction, bool align_corners,
                                       std::optional<double> scale_height,
                                       std::optional<double> scale_width) {
  const PlacementArguments placement = {align_corners, scale_height, scale_width};
  return *cross_entropy({"upsample_cross_entropy_backward", logits, labels, weight, pixel_weight,
                         ignore_index, reduction, placement, grad, false, true})
              .grad;
}

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

STABLE_TORCH_LIBRARY_IMPL(fastseg, CPU, m) {
  m.impl("bilinear_upsample", TORCH_BOX(&bilinear_upsample));
  m.impl("bilinear_upsample_backward", TORCH_BOX(&bilinear_upsample_backward));
  m.impl("upsample_argmax", TORCH_BOX(&upsample_argmax));
  m.impl("upsample_softmax", TORCH_BOX(&upsample_softmax));
  m.impl("upsample_softmax_backward", TORCH_BOX(&upsample_softmax_backward));
  m.impl("upsample_cross_entropy", TORCH_BOX(&upsample_cross_entropy));
  m.impl("upsample_cross_entropy_and_gradient", TORCH_BOX(&upsample_cross_entropy_and_gradient));
  m.impl("upsample_cross_entropy_backward", TORCH_BOX(&upsample_cross_entropy_backward));
}

}  // namespace fastseg
