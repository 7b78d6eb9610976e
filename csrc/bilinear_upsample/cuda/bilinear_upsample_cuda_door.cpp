#include "../../common/cuda_door.h"
#include "../bilinear_upsample_door.h"
#include "bilinear_upsample_cuda.h"

// The GPU's kernels behind the operators of bilinear upsampling.
namespace fastseg {
namespace {

struct CudaBackend {
  static constexpr bool kClassesInPlanes = true;
  mutable CudaCall call;

  CudaBackend(const char* op, const Tensor& tensor) : call(op, tensor) {}

  void upsample(const void* input, const ScoreLayout& layout, const UpsampleGeometry& geometry,
                void* output) const {
    call.check(cuda::upsample(input, layout, geometry, tables(geometry), call.stream(), output));
  }
  void upsample_backward(const void* grad, const ScoreLayout& layout,
                         const UpsampleGeometry& geometry, void* grad_input) const {
    call.check(cuda::upsample_backward(grad, layout, geometry, tables(geometry), call.stream(),
                                       grad_input));
  }
  void argmax(const void* logits, const ScoreLayout& layout, const UpsampleGeometry& geometry,
              bool byte_labels, void* labels) const {
    call.check(cuda::upsample_argmax(logits, layout, geometry, byte_labels, tables(geometry),
                                     call.stream(), labels));
  }
  void softmax(const void* logits, const ScoreLayout& layout, const UpsampleGeometry& geometry,
               void* probs) const {
    call.check(
        cuda::upsample_softmax(logits, layout, geometry, tables(geometry), call.stream(), probs));
  }
  void softmax_backward(const void* grad, const void* probs, const ScoreLayout& layout,
                        const UpsampleGeometry& geometry, void* grad_logits) const {
    void* scratch = call.scratch(cuda::softmax_backward_scratch_bytes(layout, geometry));
    call.check(cuda::upsample_softmax_backward(grad, probs, layout, geometry, scratch,
                                               call.stream(), grad_logits));
  }
  void cross_entropy(const CrossEntropyOperands& operands) const {
    const CrossEntropyResult& result = operands.result;
    const auto data_or_null = [](const std::optional<Tensor>& tensor) {
      return tensor ? tensor->const_data_ptr() : nullptr;
    };
    const cuda::CrossEntropyTask task = {operands.logits.const_data_ptr(),
                                         operands.labels.const_data_ptr(),
                                         operands.labels.scalar_type() == TensorType::Byte,
                                         data_or_null(operands.weight),
                                         data_or_null(operands.pixel_weight),
                                         operands.call.ignore_index,
                                         operands.reduction,
                                         data_or_null(operands.grad_loss),
                                         result.loss ? result.loss->mutable_data_ptr() : nullptr,
                                         result.grad ? result.grad->mutable_data_ptr() : nullptr,
                                         operands.call.want_loss,
                                         operands.grad_channels_last};
    void* scratch =
        call.scratch(cuda::cross_entropy_scratch_bytes(operands.layout, operands.geometry));
    call.check(cuda::upsample_cross_entropy(task, operands.layout, operands.geometry, scratch,
                                            call.stream()));
  }

 private:
  void* tables(const UpsampleGeometry& geometry) const {
    return call.scratch(cuda::upsample_scratch_bytes(geometry));
  }
};

}  // namespace

FASTSEG_CUDA_IMPL(m) { implement_bilinear_upsample<CudaBackend>(m); }

}  // namespace fastseg
