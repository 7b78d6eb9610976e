#pragma once

// The one place that knows whether kernels are compiled by nvcc, or by a C++ compiler to run under
// the emulator of the CUDA execution model (FASTSEG_SIMT, tests/simt).

#if defined(FASTSEG_SIMT)

#include "simt/simt.h"

// `const dim3 grid, block; size_t dynamic shared bytes; cudaStream_t; the kernel's arguments`.
#define FASTSEG_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::simt::launch({#kernel, grid, block, shared_bytes, stream}, [&] { kernel(__VA_ARGS__); })
// An array in shared memory; `extents` in brackets, none for a single object.
#define FASTSEG_SHARED(type, name, extents) \
  static char name##_declaration;           \
  using name##_type = type extents;         \
  name##_type& name =                       \
      *static_cast<name##_type*>(::simt::shared_array(&name##_declaration, sizeof(name##_type)))
// The dynamic shared memory as an array, 16-byte aligned.
#define FASTSEG_DYNAMIC_SHARED(type, name) \
  type* name = static_cast<type*>(::simt::block().dynamic_shared())
// Blocks of the largest one-dimensional grid.
#define FASTSEG_LARGEST_GRID ::simt::largest_grid()

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#define FASTSEG_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define FASTSEG_SHARED(type, name, extents) __shared__ type name extents
#define FASTSEG_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char fastseg_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(fastseg_dynamic_shared)
#define FASTSEG_LARGEST_GRID 2147483647u

#endif
