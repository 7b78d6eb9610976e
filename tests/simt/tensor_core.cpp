#include "tensor_core.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

namespace simt {
namespace {

struct Fragments {
  Multiplicand type;
  float* d;
  const uint32_t *a, *b;
  const float* c;
};

// Element i of a fragment of 32-bit registers.
float element(Multiplicand type, const uint32_t* registers, int i) {
  if (type == Multiplicand::kTf32) {
    const uint32_t bits = registers[i] & 0xffffe000;  // the hardware ignores the lowest 13
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  const auto bits = static_cast<uint16_t>(registers[i / 2] >> (i % 2 * 16));
  if (type == Multiplicand::kHalf) return __half2float(__half(__half_raw{bits}));
  return __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{bits}));
}

void multiply(void* const operands[kWarpSize], uint32_t) {
  float a[16][16], b[16][8];
  const auto of = [&](int lane) { return static_cast<const Fragments*>(operands[lane]); };
  const Multiplicand type = of(0)->type;
  const bool tf32 = type == Multiplicand::kTf32;
  const int depth = tf32 ? 8 : 16;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int group = lane / 4, member = lane % 4;
    if (tf32) {
      for (int i = 0; i < 4; ++i) {
        a[group + i % 2 * 8][member + i / 2 * 4] = element(type, of(lane)->a, i);
      }
      for (int i = 0; i < 2; ++i) b[member + i * 4][group] = element(type, of(lane)->b, i);
      continue;
    }
    for (int i = 0; i < 8; ++i) {
      a[group + i / 2 % 2 * 8][member * 2 + i % 2 + i / 4 * 8] = element(type, of(lane)->a, i);
    }
    for (int i = 0; i < 4; ++i) {
      b[member * 2 + i % 2 + i / 2 * 8][group] = element(type, of(lane)->b, i);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = group + i / 2 * 8, column = member * 2 + i % 2;
      float sum = of(lane)->c[i];
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      of(lane)->d[i] = sum;
    }
  }
}

struct Matrices {
  const char* row;
  const uint32_t** from;
};

void find(void* const operands[kWarpSize], uint32_t) {
  const auto of = [&](int lane) { return static_cast<const Matrices*>(operands[lane]); };
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const char* row = of(8 * i + lane / 4)->row;
      of(lane)->from[i] = reinterpret_cast<const uint32_t*>(row + lane % 4 * 4);
    }
  }
}

}  // namespace

void mma(Multiplicand type, float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
         Location where) {
  Fragments fragments = {type, d, a, b, c};
  block().meet(0xffffffffu, "mma.sync", &fragments, multiply, where);
}

void find_matrices(const void* row, const uint32_t* from[4], Location where) {
  if (reinterpret_cast<uintptr_t>(row) % 16) {
    block().fail("ldmatrix at " + text_of(where) + ": the row is not aligned to 16 bytes");
  }
  Matrices matrices = {static_cast<const char*>(row), from};
  block().meet(0xffffffffu, "ldmatrix", &matrices, find, where);
}

}  // namespace simt
