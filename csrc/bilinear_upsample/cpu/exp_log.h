#pragma once

#include <cmath>
#include <cstdint>

#include "../../common/simd.h"

// e^x and the natural logarithm of eight numbers.
namespace fastseg {
namespace FASTSEG_ISA {

// Relative error below 2.5e-7, for x <= 87; exactly 0 below -87.3, NaN where x is.
inline Vec<float, 8> exp_of(Vec<float, 8> x) {
  using V = Vec<float, 8>;
  using I = Vec<int32_t, 8>;
  const V shifted = x * 1.44269504f + 12582912.0f;  // the nearest integer in the lowest bits
  const V power = shifted - 12582912.0f;
  // ln 2 in two parts, of which the first times an integer below 2^15 is exact.
  const V f = ((x - power * 0.693359375f) + power * 2.12194440e-4f) * 1.44269504f;
  V p = broadcast<V>(1.3264727e-3f);  // 2^f as in exp2_approx
  p = p * f + 9.6715127e-3f;
  p = p * f + 5.5507337e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314698e-1f;
  p = p * f + 1.0f;
  const V scaled = (V)((I)p + ((I)shifted << 23));
  return x < -87.3f ? V{} : scaled;
}

// Absolute error below 1e-7 max(1, |log x|), for normal x > 0; x itself where x is not finite.
inline Vec<float, 8> log_of(Vec<float, 8> x) {
  using V = Vec<float, 8>;
  using I = Vec<int32_t, 8>;
  constexpr int32_t kRootHalf = 0x3f3504f3;  // the bits of sqrt(1/2)
  const I above = (I)x - kRootHalf;
  const V power = __builtin_convertvector(above >> 23, V);
  const V m = (V)((above & 0x007fffff) + kRootHalf);  // in [sqrt(1/2), sqrt(2))
  // log m = 2 atanh s = 2 (s + s^3 / 3 + s^5 / 5 + ...), |s| <= 0.172
  const V s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const V series = ((z * (1.0f / 9) + 1.0f / 7) * z + 1.0f / 5) * z + 1.0f / 3;
  const V log_m = 2.0f * (s + s * z * series);
  const V result = power * 0.693359375f + (log_m - power * 2.12194440e-4f);
  return x - x == 0.0f ? result : x;
}

inline Vec<double, 8> exp_of(Vec<double, 8> x) {
  for (int j = 0; j < 8; ++j) x[j] = std::exp(x[j]);
  return x;
}
inline Vec<double, 8> log_of(Vec<double, 8> x) {
  for (int j = 0; j < 8; ++j) x[j] = std::log(x[j]);
  return x;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
