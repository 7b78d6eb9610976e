#include <cuda_runtime_api.h>

#include <cstring>

#include "launch.h"

// The few functions of the CUDA runtime that launchers call. Work on a stream is done at once.

namespace {
cudaError_t last_error = cudaSuccess;
bool capturing = false;
int driver = CUDART_VERSION, major = 9, minor = 0;
}  // namespace

extern "C" {

void simt_set_error(int error) { last_error = static_cast<cudaError_t>(error); }

void simt_set_gpu(int driver_version, int capability_major, int capability_minor) {
  driver = driver_version;
  major = capability_major;
  minor = capability_minor;
}

int simt_toolkit() { return CUDART_VERSION; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? major : minor;
  return cudaSuccess;
}

void simt_set_capturing(bool now) { capturing = now; }

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return stream == simt::callers_stream() ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t) { return "an error set by a test"; }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  if (stream != simt::callers_stream()) return cudaErrorInvalidResourceHandle;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (capturing) return cudaErrorStreamCaptureUnsupported;
  return stream == simt::callers_stream() ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (stream != simt::callers_stream()) return cudaErrorInvalidResourceHandle;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
}
