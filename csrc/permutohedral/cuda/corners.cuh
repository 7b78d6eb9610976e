#pragma once

#include <cstdint>

#include "../../common/launch.cuh"

namespace fastseg {
namespace cuda {

// The D + 1 corners of a point's simplex, and the point that a contribution is of, without a
// division: 64 bits of the inverse, rounded up, are exact for numbers below 2^64 / (D + 1).
struct Corners {
  int count;
  unsigned long long inverse;

  explicit Corners(int64_t dims)
      : count(static_cast<int>(dims) + 1), inverse(~0ull / static_cast<unsigned>(dims + 1) + 1) {}

  __device__ __forceinline__ int64_t point(int64_t contribution) const {
    return static_cast<int64_t>(__umul64hi(static_cast<unsigned long long>(contribution), inverse));
  }
  __device__ __forceinline__ int remainder(int64_t contribution) const {
    return static_cast<int>(contribution - point(contribution) * count);
  }
};

}  // namespace cuda
}  // namespace fastseg
