#pragma once

// Arithmetic that the CPU and the CUDA kernels share is written once, for both compilers.
#if defined(__CUDACC__)
#define FASTSEG_HOST_DEVICE __host__ __device__
#else
#define FASTSEG_HOST_DEVICE
#endif
