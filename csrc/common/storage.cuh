#pragma once

#include <cmath>

#include "arithmetic.h"
#include "launch.cuh"

// Numbers are read into the type of the arithmetic, float for half precision, and rounded once
// when they are written.
namespace fastseg {

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void narrow(float value, float& to) { to = value; }
__device__ __forceinline__ void narrow(double value, double& to) { to = value; }
__device__ __forceinline__ void narrow(double value, float& to) { to = static_cast<float>(value); }
__device__ __forceinline__ void narrow(float value, __half& to) { to = __float2half_rn(value); }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(value);
}

template <typename T>
__device__ __forceinline__ T infinity() {
  return static_cast<T>(INFINITY);
}
template <typename T>
__device__ __forceinline__ T not_a_number() {
  return static_cast<T>(NAN);
}

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

}  // namespace fastseg
