#pragma once

#include <cstdint>

#include "../../common/tensor_core.cuh"
#include "../../common/vector_access.cuh"

// What a warp adds to its part of a tile in one step: products of rows of 64 bytes, of pixels and
// of outputs, which lie in shared memory.
namespace fastseg {
namespace cuda {

constexpr int kRowBytes = 64, kRowVectors = kRowBytes / 16;

// Vectors change places within their row, so that eight rows' vectors of one place lie in all
// banks.
__device__ __forceinline__ int vector_at(int row, int vector) {
  return row * kRowBytes + ((vector ^ (row >> 1)) & (kRowVectors - 1)) * 16;
}

// kPixels x kOutputs of a warp, by tensor cores.
template <typename Product, int kPixels, int kOutputs>
class TensorCoreSums {
 public:
  // The warp's first rows.
  __device__ void add(const char* pixels, const char* outputs, int lane) {
    const int row = lane % 8, matrix = lane / 8;
#pragma unroll
    for (int step = 0; step < kRowVectors; step += 2) {
      uint32_t b[kOutputs / 16][4];
#pragma unroll
      for (int j = 0; j < kOutputs / 16; ++j) {
        const int at = j * 16 + matrix / 2 * 8 + row;
        load_matrices(outputs + vector_at(at, step + matrix % 2), b[j]);
        round(Product{}, b[j]);
      }
#pragma unroll
      for (int i = 0; i < kPixels / 16; ++i) {
        uint32_t a[4];
        const int at = i * 16 + matrix % 2 * 8 + row;
        load_matrices(pixels + vector_at(at, step + matrix / 2), a);
        round(Product{}, a);
#pragma unroll
        for (int j = 0; j < kOutputs / 8; ++j) {
          multiply_add(Product{}, a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], sums_[i][j]);
        }
      }
    }
  }

  // use(pixel, output, sum) of all that the lane holds.
  template <typename Use>
  __device__ void each(int lane, Use&& use) const {
#pragma unroll
    for (int i = 0; i < kPixels / 16; ++i) {
#pragma unroll
      for (int j = 0; j < kOutputs / 8; ++j) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          use(i * 16 + part / 2 * 8 + lane / 4, j * 8 + lane % 4 * 2 + part % 2, sums_[i][j][part]);
        }
      }
    }
  }

 private:
  template <typename Other>
  __device__ static void round(Other, uint32_t (&)[4]) {}
  __device__ static void round(Tf32Product, uint32_t (&parts)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[i] = round_to_tf32(parts[i]);
  }

  float sums_[kPixels / 16][kOutputs / 8][4] = {};
};

// The same in float32, by fused multiply-adds in the order of the depth: a lane owns every fourth
// pixel and every eighth output.
template <int kPixels, int kOutputs>
class MultiplyAddSums {
 public:
  __device__ void add(const char* pixels, const char* outputs, int lane) {
    const int pixel = lane / 8, output = lane % 8;
#pragma unroll 1
    for (int vector = 0; vector < kRowVectors; ++vector) {
      Pack<float, 4> b[kOutputs / 8];
#pragma unroll
      for (int j = 0; j < kOutputs / 8; ++j) b[j] = load(outputs, output + j * 8, vector);
#pragma unroll
      for (int i = 0; i < kPixels / 4; ++i) {
        const Pack<float, 4> a = load(pixels, pixel + i * 4, vector);
#pragma unroll
        for (int j = 0; j < kOutputs / 8; ++j) {
#pragma unroll
          for (int k = 0; k < 4; ++k) sums_[i][j] = fmaf(a[k], b[j][k], sums_[i][j]);
        }
      }
    }
  }

  template <typename Use>
  __device__ void each(int lane, Use&& use) const {
#pragma unroll
    for (int i = 0; i < kPixels / 4; ++i) {
#pragma unroll
      for (int j = 0; j < kOutputs / 8; ++j) use(lane / 8 + i * 4, lane % 8 + j * 8, sums_[i][j]);
    }
  }

 private:
  __device__ static Pack<float, 4> load(const char* rows, int row, int vector) {
    return load_pack<4>(reinterpret_cast<const float*>(rows + vector_at(row, vector)));
  }

  float sums_[kPixels / 4][kOutputs / 8] = {};
};

}  // namespace cuda
}  // namespace fastseg
