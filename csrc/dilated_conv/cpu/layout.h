#pragma once

#include "../../common/arithmetic.h"
#include "../../common/half.h"
#include "layer.h"

// Between images of any layout and type and images by pixels in the type of the arithmetic.
namespace fastseg {
namespace FASTSEG_ISA {

constexpr int64_t kPixelsOfTask = 64;

// to[j][i] = from[i][j] for 8 x 8 values.
inline void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  using V = Vec<float, 8>;
  V in[8], out[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) in[i] = load<V>(from + i * from_stride);
  transpose8(in, out);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) store(to + i * to_stride, out[i]);
}

// to[j][i] = from[i][j], for `rows` values of i and `columns` of j.
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                      float* to, int64_t to_stride) {
  const int64_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
  for (int64_t i = 0; i < whole_rows; i += 16) {
    const int64_t end = std::min(whole_rows, i + 16);
    for (int64_t j = 0; j < whole_columns; j += 8) {
      for (int64_t k = i; k < end; k += 8) {
        transpose_square(from + k * from_stride + j, from_stride, to + j * to_stride + k,
                         to_stride);
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) {
      to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
}

// Whether the pixels of a channel lie side by side.
template <typename T>
bool is_planar(const Image<T>& image, int64_t width) {
  return image.column == 1 && image.row == width;
}

// pixels (B, H, W, C) = image (B, C, H, W).
template <typename T>
void to_pixels(const Image<const T>& image, int64_t batch, int64_t channels, int64_t height,
               int64_t width, Parallel parallel, Arithmetic<T>* pixels) {
  const int64_t size = height * width;
  const Cut cut(size, kPixelsOfTask, kPixelsOfTask);
  const bool planar = is_planar(image, width);
  parallel(batch * cut.count, [&](int64_t task) {
    const int64_t b = task / cut.count, first = cut.begin(task % cut.count);
    const int64_t last = cut.end(task % cut.count);
    const T* from = image.data + b * image.batch;
    Arithmetic<T>* to = pixels + (b * size + first) * channels;
    if constexpr (std::is_same_v<T, float>) {
      if (planar) {
        return transpose(from + first, image.channel, channels, last - first, to, channels);
      }
    }
    for (int64_t p = first; p < last; ++p) {
      const T* pixel = from + p / width * image.row + p % width * image.column;
      for (int64_t c = 0; c < channels; ++c) {
        *to++ = static_cast<Arithmetic<T>>(pixel[c * image.channel]);
      }
    }
  });
}

// image (B, C, H, W) = pixels (B, H, W, C).
template <typename T>
void from_pixels(const Arithmetic<T>* pixels, int64_t batch, int64_t channels, int64_t height,
                 int64_t width, Parallel parallel, const Image<T>& image) {
  const int64_t size = height * width;
  const Cut cut(size, kPixelsOfTask, kPixelsOfTask);
  const bool planar = is_planar(image, width);
  parallel(batch * cut.count, [&](int64_t task) {
    const int64_t b = task / cut.count, first = cut.begin(task % cut.count);
    const int64_t last = cut.end(task % cut.count);
    const Arithmetic<T>* from = pixels + (b * size + first) * channels;
    T* to = image.data + b * image.batch;
    if constexpr (std::is_same_v<T, float>) {
      if (planar) {
        return transpose(from, channels, last - first, channels, to + first, image.channel);
      }
    }
    for (int64_t p = first; p < last; ++p) {
      T* pixel = to + p / width * image.row + p % width * image.column;
      for (int64_t c = 0; c < channels; ++c) pixel[c * image.channel] = static_cast<T>(*from++);
    }
  });
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
