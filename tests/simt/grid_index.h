#pragma once

#include <vector_types.h>

// CUDA's built-in variables. They are set anew whenever a thread goes on.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace simt {

inline void set_thread_index(const uint3& index) { threadIdx = index; }

}  // namespace simt
