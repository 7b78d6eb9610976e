#pragma once

#include <complex>

#include "winograd_transforms.h"

// Tiles whose lines are short on both axes: both passes of a transform at once, in registers.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename R, typename C>
struct ShortTile {
  static constexpr int kInputs = R::kInputs * C::kInputs, kOutputs = R::kOutputs * C::kOutputs;
  static constexpr int kProducts = R::kProducts * C::kProducts;

  // All arrays by rows.
  template <typename V>
  static void input(const V* in, V* out) {
    V half[R::kProducts * C::kInputs];
#pragma GCC unroll 8
    for (int j = 0; j < C::kInputs; ++j) {
      V line[R::kInputs], products[R::kProducts];
#pragma GCC unroll 8
      for (int i = 0; i < R::kInputs; ++i) line[i] = in[i * C::kInputs + j];
      R::input(line, products);
#pragma GCC unroll 8
      for (int i = 0; i < R::kProducts; ++i) half[i * C::kInputs + j] = products[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < R::kProducts; ++i) {
      C::input(half + i * C::kInputs, out + i * C::kProducts);
    }
  }
  template <typename V>
  static void output(const V* in, V* out) {
    V half[R::kProducts * C::kOutputs];
#pragma GCC unroll 8
    for (int i = 0; i < R::kProducts; ++i) {
      C::output(in + i * C::kProducts, half + i * C::kOutputs);
    }
#pragma GCC unroll 8
    for (int j = 0; j < C::kOutputs; ++j) {
      V line[R::kProducts], outputs[R::kOutputs];
#pragma GCC unroll 8
      for (int i = 0; i < R::kProducts; ++i) line[i] = half[i * C::kOutputs + j];
      R::output(line, outputs);
#pragma GCC unroll 8
      for (int i = 0; i < R::kOutputs; ++i) out[i * C::kOutputs + j] = outputs[i];
    }
  }
};

// The rows' values at 1 and -1 are real lines, five products each. Their value at i is a complex
// line, whose values at 1, -1, i and -i are four complex products.
template <>
struct ShortTile<LineOfThree, LineOfThree> {
  using L = LineOfThree;
  static constexpr int kInputs = 9, kOutputs = 9, kProducts = 22;

  template <typename V>
  static void input(const V* in, V* out) {
    V sum[3], difference[3], real[3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const V ends = in[j] + in[6 + j];
      sum[j] = ends + in[3 + j];
      difference[j] = ends - in[3 + j];
      real[j] = in[j] - in[6 + j];
    }
    const V* imaginary = in + 3;
    L::input(sum, out);
    L::input(difference, out + 5);
    const V real_ends = real[0] + real[2], imaginary_ends = imaginary[0] + imaginary[2];
    const V real_tilt = real[0] - real[2], imaginary_tilt = imaginary[0] - imaginary[2];
    L::complex_input(real_ends + real[1], imaginary_ends + imaginary[1], out + 10);
    L::complex_input(real_ends - real[1], imaginary_ends - imaginary[1], out + 13);
    L::complex_input(real_tilt - imaginary[1], imaginary_tilt + real[1], out + 16);
    L::complex_input(real_tilt + imaginary[1], imaginary_tilt - real[1], out + 19);
  }
  template <typename V>
  static void output(const V* in, V* out) {
    V sum[3], difference[3], real[4], imaginary[4];
    L::output(in, sum);
    L::output(in + 5, difference);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) L::complex_output(in + 10 + 3 * t, real + t, imaginary + t);
    // Of the values at 1 and -1, then at i and -i.
    const V even_real = real[0] + real[1], even_imaginary = imaginary[0] + imaginary[1];
    const V ends_real = real[2] + real[3], ends_imaginary = imaginary[2] + imaginary[3];
    const V line_real[3] = {even_real + ends_real,
                            real[0] - real[1] + (imaginary[2] - imaginary[3]),
                            even_real - ends_real};
    const V line_imaginary[3] = {even_imaginary + ends_imaginary,
                                 imaginary[0] - imaginary[1] - (real[2] - real[3]),
                                 even_imaginary - ends_imaginary};
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const V both = sum[j] + difference[j];
      out[j] = both + line_real[j];
      out[3 + j] = sum[j] - difference[j] + line_imaginary[j];
      out[6 + j] = both - line_real[j];
    }
  }
  // Of one kernel (3, 3).
  static void weight(const double* in, double* out) {
    double rows[3][5];  // at each column: the values at 1, -1 and i
    std::complex<double> line[3];
    for (int j = 0; j < 3; ++j) {
      const double taps[3] = {in[j], in[3 + j], in[6 + j]};
      L::weight(taps, rows[j]);
      line[j] = {taps[1] / 2, (taps[0] - taps[2]) / 2};
    }
    for (int i = 0; i < 2; ++i) {
      const double taps[3] = {rows[0][i], rows[1][i], rows[2][i]};
      L::weight(taps, out + 5 * i);
    }
    const std::complex<double> i(0, 1), ends = line[0] + line[2], tilt = line[0] - line[2];
    L::complex_weight((line[1] + ends) / 4.0, out + 10);
    L::complex_weight((line[1] - ends) / 4.0, out + 13);
    L::complex_weight((line[1] + i * tilt) / 4.0, out + 16);
    L::complex_weight((line[1] - i * tilt) / 4.0, out + 19);
  }
};

// `in`: for each pixel by rows, `count` channels, a whole number of vectors.
using ShortInput = void (*)(const float* const* in, int64_t count, float* out, int64_t out_stride);

constexpr int64_t kChunkAhead = 64;  // channels to fetch ahead: those of the next call

template <typename Tile>
void short_input(const float* const* in, int64_t count, float* out, int64_t out_stride) {
  using V = Wide<float>;
  for (int64_t c = 0; c < count; c += kWideLanes<float>) {
    V from[Tile::kInputs], to[Tile::kProducts];
#pragma GCC unroll 9
    for (int i = 0; i < Tile::kInputs; ++i) __builtin_prefetch(in[i] + c + kChunkAhead, 0, 2);
#pragma GCC unroll 9
    for (int i = 0; i < Tile::kInputs; ++i) from[i] = load<V>(in[i] + c);
    Tile::input(from, to);
#pragma GCC unroll 22
    for (int i = 0; i < Tile::kProducts; ++i) store(out + i * out_stride + c, to[i]);
  }
}

// `count` need not be a whole number of vectors; `in` is padded.
using ShortOutput = void (*)(const float* in, int64_t in_stride, int64_t count,
                             const Finish& finish);

template <typename Tile>
void short_output(const float* in, int64_t in_stride, int64_t count, const Finish& finish) {
  using V = Wide<float>;
  for (int64_t c = 0; c < count; c += kWideLanes<float>) {
    V from[Tile::kProducts], to[Tile::kOutputs];
#pragma GCC unroll 22
    for (int i = 0; i < Tile::kProducts; ++i) from[i] = load<V>(in + i * in_stride + c);
    Tile::output(from, to);
#pragma GCC unroll 9
    for (int i = 0; i < Tile::kOutputs; ++i) finish.write(i, c, count, to[i]);
  }
}

struct ShortTransforms {
  ShortInput input;
  ShortOutput output;
};

// Null where a line is not short.
inline ShortTransforms short_transforms(LineAlgorithm rows, LineAlgorithm columns) {
  ShortTransforms found = {nullptr, nullptr};
  with_line(rows, [&](auto* row) {
    with_line(columns, [&](auto* column) {
      using R = std::remove_pointer_t<decltype(row)>;
      using C = std::remove_pointer_t<decltype(column)>;
      if constexpr (R::kInputs <= kLongestAlone && C::kInputs <= kLongestAlone) {
        using Tile = ShortTile<R, C>;
        found = {short_input<Tile>, short_output<Tile>};
      }
    });
  });
  return found;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
