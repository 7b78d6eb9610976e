#include "cuda_door.h"

#include <sstream>

#include "gpu_check.h"

namespace fastseg {

// The architectures that the kernels are built for, "sm_80, sm_86"; setup.py sets it.
#if !defined(FASTSEG_CUDA_ARCHITECTURES)
#define FASTSEG_CUDA_ARCHITECTURES "none"
#endif

std::string cuda_error_text(cudaError_t error) {
  std::ostringstream text;
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
      text << "the GPU must be of an architecture that fastseg was built for ("
           << FASTSEG_CUDA_ARCHITECTURES
           << "), got another; build fastseg with TORCH_CUDA_ARCH_LIST set to the GPU's compute "
              "capability, 8.0 or later, or run it on the CPU";
      break;
    case cudaErrorInsufficientDriver:
      text << "the NVIDIA driver must support CUDA " << cuda_version_text(CUDART_VERSION)
           << ", got an older one; update the driver, or build fastseg with an older toolkit";
      break;
    default:
      text << "CUDA reports " << cudaGetErrorString(error) << " (error " << static_cast<int>(error)
           << ")";
  }
  return text.str();
}

#if defined(FASTSEG_SIMT)

CudaCall::CudaCall(const char* op, const Tensor& tensor)
    : op_(op), device_(tensor.device()), stream_(simt::callers_stream()) {
  check_gpu(0);
}

#else

CudaCall::CudaCall(const char* op, const Tensor& tensor)
    : op_(op), device_(tensor.device()), guard_(tensor.get_device_index()) {
  const auto stream = torch::stable::accelerator::getCurrentStream(tensor.get_device_index());
  stream_ = static_cast<cudaStream_t>(stream.nativeHandle());
  check_gpu(tensor.get_device_index());
}

#endif

void CudaCall::check_gpu(int device) const {
  GpuFacts gpu = {};
  check(cudaDriverGetVersion(&gpu.driver));
  check(cudaDeviceGetAttribute(&gpu.major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&gpu.minor, cudaDevAttrComputeCapabilityMinor, device));
  const std::string fault = gpu_fault(gpu, FASTSEG_CUDA_ARCHITECTURES, CUDART_VERSION);
  if (!fault.empty()) fail(fault);
}

void* CudaCall::scratch(int64_t bytes) {
  scratch_.push_back(empty_tensor({bytes}, TensorType::Byte, device_));
  return scratch_.back().mutable_data_ptr();
}

void* CudaCall::brief_scratch(int64_t bytes) {
  brief_scratch_.push_back(empty_tensor({bytes}, TensorType::Byte, device_));
  return brief_scratch_.back().mutable_data_ptr();
}

bool CudaCall::is_captured() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_, &status));
  return status != cudaStreamCaptureStatusNone;
}

void CudaCall::refuse_capture(const char* why) const {
  if (!is_captured()) return;
  throw std::runtime_error("fastseg RuntimeError: " + std::string(op_) +
                           ": the stream must not be under capture, got one that is; " + why);
}

void CudaCall::read(const void* device_memory, int64_t bytes, void* to) const {
  check(cudaMemcpyAsync(to, device_memory, bytes, cudaMemcpyDeviceToHost, stream_));
  check(cudaStreamSynchronize(stream_));
}

void CudaCall::check(cudaError_t error) const {
  if (error == cudaErrorMemoryAllocation) throw OutOfDeviceMemory(cuda_error_text(error));
  if (error != cudaSuccess) fail(cuda_error_text(error));
}

void CudaCall::fail(const std::string& text) const {
  throw std::runtime_error("fastseg RuntimeError: " + std::string(op_) + ": " + text);
}

}  // namespace fastseg
