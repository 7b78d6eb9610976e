#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "torch_door.h"

#if defined(FASTSEG_SIMT)
#include "simt/launch.h"
#else
#include <torch/csrc/stable/accelerator.h>
#endif

// What the doors to CUDA kernels need. Under the emulator (FASTSEG_SIMT, tests/simt) tensors are
// the CPU's, and the operators are those of the namespace fastseg_simt.
namespace fastseg {

#if defined(FASTSEG_SIMT)
#define FASTSEG_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(fastseg_simt, CPU, m)
#else
#define FASTSEG_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(fastseg, CUDA, m)
#endif

// What the user can do about an error of the CUDA runtime, after "<op>: ".
std::string cuda_error_text(cudaError_t error);

// One call of an operator: for as long as it exists the tensor's device is the current one.
class CudaCall {
 public:
  CudaCall(const char* op, const Tensor& tensor);

  // torch's current stream of the device.
  cudaStream_t stream() const { return stream_; }
  // Memory that is free again once what the stream has been given until then is done.
  void* scratch(int64_t bytes);
  // Such memory that is given back before the call ends, all of it at once: what the stream is
  // given after that may lie in it.
  void* brief_scratch(int64_t bytes);
  void give_back_brief_scratch() { brief_scratch_.clear(); }
  // Whether what the stream is given goes into a CUDA graph: nothing may be read back then.
  bool is_captured() const;
  // A clear error in place of CUDA's where `why` something must be read back.
  void refuse_capture(const char* why) const;
  // Waits until the stream has come to here.
  void read(const void* device_memory, int64_t bytes, void* to) const;
  void check(cudaError_t error) const;

 private:
  // Raises where the driver or the GPU is older than the kernels. Asks no more than the driver's
  // memory: some hundred nanoseconds, and nothing that a capture forbids.
  void check_gpu(int device) const;
  [[noreturn]] void fail(const std::string& text) const;

  const char* op_;
  Device device_;
  std::vector<Tensor> scratch_, brief_scratch_;
#if !defined(FASTSEG_SIMT)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_;
};

}  // namespace fastseg
