#pragma once

#include "storage.cuh"

namespace fastseg {
namespace cuda {

// The largest of some logits, and the sum of exp(logit - largest), in one pass. NaN, +infinity, and
// nothing but -infinity make the sum NaN, as in torch.
template <typename T>
struct OnlineSoftmax {
  T largest = -infinity<T>();
  T sum = 0;

  __device__ __forceinline__ void add(T logit) {
    if (logit == largest) {
      sum += 1;  // also of infinities, whose difference is NaN
    } else {
      const T power = exp_of(-fabs(logit - largest));
      if (logit > largest) {
        sum = sum * power + 1;
        largest = logit;
      } else {
        sum += power;
      }
    }
  }

  // As if the other's logits had been added.
  __device__ __forceinline__ void merge(T other_largest, T other_sum) {
    const T top = largest > other_largest ? largest : other_largest;
    const T own = largest == top ? T(1) : exp_of(largest - top);
    const T others = other_largest == top ? T(1) : exp_of(other_largest - top);
    sum = own * sum + others * other_sum;
    largest = top;
  }

  __device__ __forceinline__ void finish() { sum += largest - largest; }
};

}  // namespace cuda
}  // namespace fastseg
