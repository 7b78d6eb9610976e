#pragma once

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>

// Whether a GPU and its driver can run kernels that were built elsewhere.
namespace fastseg {

struct GpuFacts {
  int driver;        // the newest CUDA that it supports, 13000 for 13.0
  int major, minor;  // compute capability
};

inline std::string cuda_version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The least of "sm_90, sm_80, compute_90" as 80; 0 where there is none.
inline int oldest_architecture(const std::string& architectures) {
  constexpr char kDigits[] = "0123456789";
  int oldest = 0;
  for (size_t at = 0; (at = architectures.find_first_of(kDigits, at)) != std::string::npos;) {
    const int found = std::atoi(architectures.c_str() + at);
    oldest = oldest == 0 ? found : std::min(oldest, found);
    at = architectures.find_first_not_of(kDigits, at);
  }
  return oldest;
}

// What is wrong and what to do about it, after "<op>: "; empty where nothing is. A driver runs what
// any toolkit of its major version compiled for the GPU's own architecture.
inline std::string gpu_fault(const GpuFacts& gpu, const std::string& architectures, int toolkit) {
  std::ostringstream text;
  const int oldest = oldest_architecture(architectures), found = 10 * gpu.major + gpu.minor;
  if (gpu.driver / 1000 < toolkit / 1000) {
    text << "the NVIDIA driver must support CUDA " << cuda_version_text(toolkit)
         << ", with which fastseg was built, got one for CUDA " << cuda_version_text(gpu.driver)
         << "; update the driver, or build fastseg with a toolkit of that version";
  } else if (found < oldest) {
    text << "the GPU must be of compute capability " << oldest / 10 << "." << oldest % 10
         << " or later (fastseg was built for " << architectures << "), got " << gpu.major << "."
         << gpu.minor << "; ";
    if (gpu.major >= 8) {
      text << "build fastseg with TORCH_CUDA_ARCH_LIST=" << gpu.major << "." << gpu.minor
           << ", or run it on the CPU";
    } else {
      text << "its kernels need 8.0 at least: run it on the CPU";
    }
  }
  return text.str();
}

}  // namespace fastseg
