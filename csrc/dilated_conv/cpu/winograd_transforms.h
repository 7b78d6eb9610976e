#pragma once

#include <complex>

#include "../../common/gemm.h"
#include "../winograd_plan.h"

// The one-dimensional transforms of F(m, 3), Winograd (1980), built as Toom and Cook do: the values
// of polynomials at points 0, +-p, one more where m is odd, and infinity. The usual points are
// 0, +-1, +-2, +-1/2. Those below were found by search (error against float64, 256 channels of
// normal deviates, relative to the largest output): F(4, 3) 1.6e-6 where +-1, +-2 gives 8e-6,
// F(3, 3) 1.1e-6, F(6, 3) 9e-6. They are dyadic, so that their powers are exact.
//
// With N_i(x) the monic polynomial that vanishes at all finite points but p_i, and N(x) at all:
//   input   row i: coefficients of N_i; infinity: those of N
//   weight  row i: (1, p_i, p_i^2) / N_i(p_i); infinity: (0, 0, 1)
//   output  column i: powers of p_i; infinity: the last output alone
// For points +p and -p, N_i is x g(x) +- p g(x), of one g.
namespace fastseg {
namespace FASTSEG_ISA {

template <int kPoints>
struct PointSet {
  double point[kPoints];

  // Coefficient of x^power in the monic polynomial that vanishes at all points but two.
  constexpr double coefficient(int power, int except, int except_too) const {
    double c[kPoints + 1] = {1};
    int degree = 0;
    for (int i = 0; i < kPoints; ++i) {
      if (i == except || i == except_too) continue;
      for (int k = ++degree; k > 0; --k) c[k] = c[k - 1] - point[i] * c[k];
      c[0] *= -point[i];
    }
    return power >= 0 && power <= degree ? c[power] : 0;
  }
  constexpr double value_at_own(int i) const {
    double value = 1;
    for (int k = 0; k < kPoints; ++k) {
      if (k != i) value *= point[i] - point[k];
    }
    return value;
  }
  constexpr double power(int i, int exponent) const {
    double value = 1;
    for (int k = 0; k < exponent; ++k) value *= point[i];
    return value;
  }
};

// Finite points in this order: 0, pairs (+p, -p), then what is left.
struct F2 {
  static constexpr int kPairs = 1, kOutputs = 2;
  static constexpr PointSet<3> kPoints = {{0, 1, -1}};
};
struct F3 {
  static constexpr int kPairs = 1, kOutputs = 3;
  static constexpr PointSet<4> kPoints = {{0, 0.75, -0.75, 1.5}};
};
struct F4 {
  static constexpr int kPairs = 2, kOutputs = 4;
  static constexpr PointSet<5> kPoints = {{0, 0.625, -0.625, 1.5, -1.5}};
};
struct F6 {
  static constexpr int kPairs = 3, kOutputs = 6;
  static constexpr PointSet<7> kPoints = {{0, 0.625, -0.625, 1, -1, 1.75, -1.75}};
};

template <typename V>
inline void add_product(V* sum, double factor, V value, bool* first) {
  if (factor == 0) return;
  if (*first) {
    *sum = factor == 1 ? value : value * static_cast<float>(factor);
    *first = false;
  } else if (factor == 1) {
    *sum += value;
  } else if (factor == -1) {
    *sum -= value;
  } else {
    *sum += value * static_cast<float>(factor);
  }
}

template <typename F>
struct LineTables {
  static constexpr int kProducts = F::kOutputs + 2, kFinite = kProducts - 1;
  double input[kProducts][kProducts];  // rows of pairs: x g(x), then p g(x)
  double output[F::kOutputs][kProducts];

  constexpr LineTables() : input(), output() {
    for (int i = 0; i < kProducts; ++i) {
      const int other = i % 2 == 1 ? i + 1 : i - 1;
      const bool paired = i > 0 && i <= 2 * F::kPairs;
      for (int k = 0; k < kProducts; ++k) {
        if (!paired) {
          input[i][k] = F::kPoints.coefficient(k, i == kFinite ? -1 : i, -1);
        } else if (i % 2 == 1) {
          input[i][k] = F::kPoints.coefficient(k - 1, i, other);
        } else {
          input[i][k] = F::kPoints.point[other] * F::kPoints.coefficient(k, i, other);
        }
      }
      for (int j = 0; j < F::kOutputs; ++j) {
        output[j][i] = i == kFinite ? (j == F::kOutputs - 1 ? 1 : 0) : F::kPoints.power(i, j);
      }
    }
  }
};

template <typename F>
struct Line {
  static constexpr int kOutputs = F::kOutputs, kProducts = kOutputs + 2, kInputs = kProducts;
  static constexpr LineTables<F> kTables{};

  template <typename V>
  static void input(const V* in, V* out) {
#pragma GCC unroll 8
    for (int i = 0; i < kProducts; ++i) {
      V sum = {};
      bool first = true;
#pragma GCC unroll 8
      for (int k = 0; k < kInputs; ++k) add_product(&sum, kTables.input[i][k], in[k], &first);
      out[i] = sum;
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < F::kPairs; ++pair) {
      const V u = out[1 + 2 * pair], v = out[2 + 2 * pair];
      out[1 + 2 * pair] = u + v;
      out[2 + 2 * pair] = u - v;
    }
  }
  template <typename V>
  static void output(const V* in, V* out) {
    V half[kProducts];  // sums and differences of the pairs
#pragma GCC unroll 8
    for (int i = 0; i < kProducts; ++i) half[i] = in[i];
#pragma GCC unroll 4
    for (int pair = 0; pair < F::kPairs; ++pair) {
      half[1 + 2 * pair] = in[1 + 2 * pair] + in[2 + 2 * pair];
      half[2 + 2 * pair] = in[1 + 2 * pair] - in[2 + 2 * pair];
    }
#pragma GCC unroll 8
    for (int j = 0; j < kOutputs; ++j) {
      V sum = {};
      bool first = true;
#pragma GCC unroll 8
      for (int i = 0; i < kProducts; ++i) {
        const bool paired = i > 0 && i <= 2 * F::kPairs;
        // Of a pair, even powers take the sum and odd powers the difference.
        if (paired && (i % 2 == 1) != (j % 2 == 0)) continue;
        add_product(&sum, kTables.output[j][paired && i % 2 == 0 ? i - 1 : i], half[i], &first);
      }
      out[j] = sum;
    }
  }
  static void weight(const double* in, double* out) {
    for (int i = 0; i < kProducts - 1; ++i) {
      out[i] = (in[0] + F::kPoints.power(i, 1) * in[1] + F::kPoints.power(i, 2) * in[2]) /
               F::kPoints.value_at_own(i);
    }
    out[kProducts - 1] = in[2];
  }
};

struct LineOfOne {
  static constexpr int kOutputs = 1, kProducts = 1, kInputs = 1;

  template <typename V>
  static void input(const V* in, V* out) {
    out[0] = in[0];
  }
  template <typename V>
  static void output(const V* in, V* out) {
    out[0] = in[0];
  }
  static void weight(const double* in, double* out) { out[0] = in[1]; }
};

// y0 = b x0 + c x1, y1 = a x0 + b x1, from b (x0 + x1), (c - b) x1 and (a - b) x0.
struct LineOfTwo {
  static constexpr int kOutputs = 2, kProducts = 3, kInputs = 2;

  template <typename V>
  static void input(const V* in, V* out) {
    out[0] = in[0] + in[1];
    out[1] = in[1];
    out[2] = in[0];
  }
  template <typename V>
  static void output(const V* in, V* out) {
    out[0] = in[0] + in[1];
    out[1] = in[0] + in[2];
  }
  static void weight(const double* in, double* out) {
    out[0] = in[1];
    out[1] = in[2] - in[1];
    out[2] = in[0] - in[1];
  }
};

// The cyclic convolution of length four, whose wrapped ends meet only the zeros around the line:
// the values at 1, -1 and i of the polynomials, (a + b + c) / 4, (b - a - c) / 4 and (b + i (a -
// c)) / 2.
struct LineOfThree {
  static constexpr int kOutputs = 3, kProducts = 5, kInputs = 3;

  template <typename V>
  static void input(const V* in, V* out) {
    const V ends = in[0] + in[2];
    out[0] = ends + in[1];
    out[1] = ends - in[1];
    complex_input(in[0] - in[2], in[1], out + 2);
  }
  template <typename V>
  static void output(const V* in, V* out) {
    V real, imaginary;
    complex_output(in + 2, &real, &imaginary);
    const V sum = in[0] + in[1];
    out[0] = sum + real;
    out[1] = in[0] - in[1] + imaginary;
    out[2] = sum - real;
  }
  static void weight(const double* in, double* out) {
    out[0] = (in[0] + in[1] + in[2]) / 4;
    out[1] = (in[1] - in[0] - in[2]) / 4;
    complex_weight({in[1] / 2, (in[0] - in[2]) / 2}, out + 2);
  }

  // (p + i q) (u + i v) of three products: u (p + q), (v - u) p, (u + v) q.
  template <typename V>
  static void complex_input(V real, V imaginary, V* out) {
    out[0] = real + imaginary;
    out[1] = real;
    out[2] = imaginary;
  }
  template <typename V>
  static void complex_output(const V* in, V* real, V* imaginary) {
    *real = in[0] - in[2];
    *imaginary = in[0] + in[1];
  }
  static void complex_weight(std::complex<double> weight, double* out) {
    out[0] = weight.real();
    out[1] = weight.imag() - weight.real();
    out[2] = weight.imag() + weight.real();
  }
};

// use(type) with the transforms of `algorithm`.
template <typename Use>
auto with_line(LineAlgorithm algorithm, Use&& use) {
  switch (algorithm) {
    case LineAlgorithm::kOne:
      return use(static_cast<LineOfOne*>(nullptr));
    case LineAlgorithm::kTwo:
      return use(static_cast<LineOfTwo*>(nullptr));
    case LineAlgorithm::kThree:
      return use(static_cast<LineOfThree*>(nullptr));
    case LineAlgorithm::kF2:
      return use(static_cast<Line<F2>*>(nullptr));
    case LineAlgorithm::kF3:
      return use(static_cast<Line<F3>*>(nullptr));
    case LineAlgorithm::kF4:
      return use(static_cast<Line<F4>*>(nullptr));
    default:
      return use(static_cast<Line<F6>*>(nullptr));
  }
}

// Along one axis, over `count` channels, a whole number of vectors.
using InputPass = void (*)(const float* const* in, int64_t count, float* out, int64_t out_stride);

template <typename L>
void input_pass(const float* const* in, int64_t count, float* out, int64_t out_stride) {
  using V = Wide<float>;
  for (int64_t c = 0; c < count; c += kWideLanes<float>) {
    V from[L::kInputs], to[L::kProducts];
#pragma GCC unroll 8
    for (int i = 0; i < L::kInputs; ++i) from[i] = load<V>(in[i] + c);
    L::input(from, to);
#pragma GCC unroll 8
    for (int i = 0; i < L::kProducts; ++i) store(out + i * out_stride + c, to[i]);
  }
}

using OutputPass = void (*)(const float* in, int64_t in_stride, int64_t count, float* out,
                            int64_t out_stride);

template <typename L>
void output_pass(const float* in, int64_t in_stride, int64_t count, float* out,
                 int64_t out_stride) {
  using V = Wide<float>;
  for (int64_t c = 0; c < count; c += kWideLanes<float>) {
    V from[L::kProducts], to[L::kOutputs];
#pragma GCC unroll 8
    for (int i = 0; i < L::kProducts; ++i) from[i] = load<V>(in + i * in_stride + c);
    L::output(from, to);
#pragma GCC unroll 8
    for (int i = 0; i < L::kOutputs; ++i) store(out + i * out_stride + c, to[i]);
  }
}

// Where sums go that are complete, and so what follows the convolution.
struct Finish {
  static constexpr int kMostPixels = 9;
  float* out[kMostPixels];             // null: no such pixel
  const float* residual[kMostPixels];  // or null
  const float* bias;                   // padded to whole vectors, or null
  Activation activation;
  bool stream;

  // Channels from `c` of pixel `i`; only those below `count`.
  template <typename V>
  void write(int i, int64_t c, int64_t count, V value) const {
    if (!out[i]) return;
    const bool whole = c + kWideLanes<float> <= count;
    if (bias) value += load<V>(bias + c);
    if (residual[i]) {
      V other = {};
      if (whole) {
        other = load<V>(residual[i] + c);
      } else {
        std::memcpy(&other, residual[i] + c, (count - c) * sizeof(float));
      }
      value += other;
    }
    value = activated(activation, value);
    if (whole && stream) {
      store_past_caches(out[i] + c, value);
    } else if (whole) {
      store(out[i] + c, value);
    } else {
      std::memcpy(out[i] + c, &value, (count - c) * sizeof(float));
    }
  }
};

// The second pass of the output.
using FinishPass = void (*)(const float* in, int64_t in_stride, int64_t count,
                            const Finish& finish);

// `count` need not be a whole number of vectors here; `in` is padded.
template <typename L>
void finish_pass(const float* in, int64_t in_stride, int64_t count, const Finish& finish) {
  using V = Wide<float>;
  constexpr int kL = kWideLanes<float>;
  for (int64_t c = 0; c < count; c += kL) {
    V from[L::kProducts], to[L::kOutputs];
#pragma GCC unroll 8
    for (int i = 0; i < L::kProducts; ++i) from[i] = load<V>(in + i * in_stride + c);
    L::output(from, to);
#pragma GCC unroll 8
    for (int i = 0; i < L::kOutputs; ++i) finish.write(i, c, count, to[i]);
  }
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
