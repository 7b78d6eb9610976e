#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

// float16 and bfloat16 as they lie in memory. Arithmetic is done in float32; conversions round to
// nearest, ties to even, and keep infinities and NaN.
namespace fastseg {
namespace FASTSEG_ISA {

struct Half {
  uint16_t bits;

  Half() = default;
  explicit Half(float value) {
#if defined(__F16C__)
    bits = static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
    uint32_t word;
    std::memcpy(&word, &value, sizeof(word));
    const uint32_t sign = (word >> 16) & 0x8000, magnitude = word & 0x7fffffff;
    if (magnitude >= 0x47800000) {  // 65536 and more, infinity, NaN
      bits = static_cast<uint16_t>(sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x0200 : 0));
    } else if (magnitude < 0x38800000) {  // below 2^-14: units of 2^-24, rounded by the addition
      float small;
      std::memcpy(&small, &magnitude, sizeof(small));
      small += 0.5f;
      std::memcpy(&word, &small, sizeof(word));
      bits = static_cast<uint16_t>(sign | (word - 0x3f000000));
    } else {
      const uint32_t odd = (magnitude >> 13) & 1;
      bits = static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
    }
#endif
  }
  explicit operator float() const {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    const uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    float value;
    uint32_t word;
    if (magnitude >= 0x7c00) {
      word = sign | 0x7f800000 | (magnitude << 13);
    } else if (magnitude < 0x0400) {
      value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
      std::memcpy(&word, &value, sizeof(word));
      word |= sign;
    } else {
      word = sign | ((magnitude << 13) + 0x38000000);
    }
    std::memcpy(&value, &word, sizeof(value));
    return value;
#endif
  }
};

struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  explicit BFloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, sizeof(word));
    if ((word & 0x7fffffff) > 0x7f800000) {
      bits = 0x7fc0;
    } else {
      bits = static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
    }
  }
  explicit operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
