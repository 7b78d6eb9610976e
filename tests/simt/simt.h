#pragma once

// All that a CUDA kernel source needs to be compiled as C++ and run on the CPU. See README.md.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

// CUDA's headers define these for compilers that know no CUDA, and some of them otherwise.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#include "async_copy.h"
#include "atomics.h"
#include "grid_index.h"
#include "intrinsics.h"
#include "launch.h"
#include "shared_memory.h"
#include "synchronisation.h"
#include "tensor_core.h"
#include "warp.h"
