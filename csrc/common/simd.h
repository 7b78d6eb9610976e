#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE__)
#include <immintrin.h>
#endif

// Vectors as the compiler's own types: one source for SSE2, AVX2, AVX-512 and NEON. Everything
// here is in the namespace of an instruction set, since its code differs between them.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename T, int kLanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * kLanes)));
};
template <typename T, int kLanes>
using Vec = typename VectorOf<T, kLanes>::type;

constexpr int kLanes = 8;  // points that are placed, and pixels that are updated, side by side

template <typename V, typename T>
inline V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V, typename T>
inline void store(T* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

template <typename V, typename T>
inline V broadcast(T value) {
  return value - V{};
}

// The smaller, or b where either is NaN; GCC does not make one instruction of the general form.
template <typename V>
inline V vector_min(V a, V b) {
#if defined(__SSE__)
  if constexpr (std::is_same_v<V, Vec<float, 4>>) return (V)_mm_min_ps((__m128)a, (__m128)b);
#endif
#if defined(__AVX__)
  if constexpr (std::is_same_v<V, Vec<float, 8>>) return (V)_mm256_min_ps((__m256)a, (__m256)b);
#endif
  return a < b ? a : b;
}

// The larger, or b where either is NaN.
template <typename V>
inline V vector_max(V a, V b) {
#if defined(__SSE__)
  if constexpr (std::is_same_v<V, Vec<float, 4>>) return (V)_mm_max_ps((__m128)a, (__m128)b);
#endif
#if defined(__AVX__)
  if constexpr (std::is_same_v<V, Vec<float, 8>>) return (V)_mm256_max_ps((__m256)a, (__m256)b);
#endif
  return a > b ? a : b;
}

inline Vec<float, 8> vector_abs(Vec<float, 8> v) {
  using I = Vec<int32_t, 8>;
  return (Vec<float, 8>)((I)v & 0x7fffffff);
}

// Nearest integer, ties to even, for |value| below 2^22 (float) or 2^51 (double): adding and
// taking away 1.5 * 2^23 (or 2^52) leaves no bits for the fraction.
template <int kCount>
inline Vec<float, kCount> round_even(Vec<float, kCount> value) {
  return (value + 12582912.0f) - 12582912.0f;
}
template <int kCount>
inline Vec<double, kCount> round_even(Vec<double, kCount> value) {
  return (value + 6755399441055744.0) - 6755399441055744.0;
}

// 2^x, relative error below 2e-7, for x <= 127; exactly 0 below -126. The polynomial is the
// minimax approximation of 2^f on [-1/2, 1/2] of degree five with 2^0 = 1 (9.1e-8).
template <int kCount>
inline Vec<float, kCount> exp2_approx(Vec<float, kCount> x) {
  using V = Vec<float, kCount>;
  using U = Vec<uint32_t, kCount>;  // below -126 the exponent wraps, and the result is not used
  // Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits.
  const V shifted = x + 12582912.0f;
  const V f = x - (shifted - 12582912.0f);
  V p = broadcast<V>(1.3264727e-3f);
  p = p * f + 9.6715127e-3f;
  p = p * f + 5.5507337e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314698e-1f;
  p = p * f + 1.0f;
  const V power = (V)((U)p + ((U)shifted << 23));
  return x < -126.0f ? V{} : power;
}

// Elements of a (from 0) and of b (from the number of elements of a); GCC before 12 knows only its
// own form.
template <int... kFrom, typename V>
inline V shuffle(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, kFrom...);
#else
  return __builtin_shuffle(a, b, Vec<int32_t, sizeof...(kFrom)>{kFrom...});
#endif
}

// out[j][i] = in[i][j].
inline void transpose8(const Vec<float, 8>* in, Vec<float, 8>* out) {
  using V = Vec<float, 8>;
  V pair[8], quad[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = shuffle<0, 8, 1, 9, 4, 12, 5, 13>(in[i], in[i + 1]);
    pair[i + 1] = shuffle<2, 10, 3, 11, 6, 14, 7, 15>(in[i], in[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const V a = pair[i + j], b = pair[i + j + 2];
      quad[i + 2 * j] = shuffle<0, 1, 8, 9, 4, 5, 12, 13>(a, b);
      quad[i + 2 * j + 1] = shuffle<2, 3, 10, 11, 6, 7, 14, 15>(a, b);
    }
  }
  for (int i = 0; i < 4; ++i) {
    out[i] = shuffle<0, 1, 2, 3, 8, 9, 10, 11>(quad[i], quad[i + 4]);
    out[i + 4] = shuffle<4, 5, 6, 7, 12, 13, 14, 15>(quad[i], quad[i + 4]);
  }
}

// Bit i says whether element i of a is above that of b.
template <typename V>
inline uint32_t above_bits(V a, V b) {
#if defined(__AVX__)
  if constexpr (std::is_same_v<V, Vec<float, 8>>) {
    return static_cast<uint32_t>(
        _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)));
  }
#endif
  const auto above = a > b;
  uint32_t bits = 0;
  for (size_t i = 0; i < sizeof(V) / sizeof(float); ++i) bits |= (above[i] & 1u) << i;
  return bits;
}

// The first `count` elements; all of them, as nearly always, without a call of memcpy.
template <typename V>
inline void store_first(float* to, V value, int64_t count) {
  if (count * sizeof(float) == sizeof(V)) return store(to, value);
  std::memcpy(to, &value, count * sizeof(float));
}

// The next `count` elements, and the last of them again where they are fewer than eight.
template <typename T>
inline Vec<T, 8> load_first(const T* from, int64_t count) {
  if (count == 8) return load<Vec<T, 8>>(from);
  Vec<T, 8> value;
  for (int64_t i = 0; i < 8; ++i) value[i] = from[i < count ? i : count - 1];
  return value;
}

// Bit i says whether words[i] is `word`, for eight words.
inline uint32_t equal_bits(const uint64_t* words, uint64_t word) {
#if defined(__AVX512F__)
  return _mm512_cmpeq_epi64_mask(_mm512_loadu_si512(words), _mm512_set1_epi64(word));
#elif defined(__AVX2__)
  const auto* halves = reinterpret_cast<const __m256i*>(words);
  const __m256i own = _mm256_set1_epi64x(static_cast<long long>(word));
  const auto bits = [own](__m256i half) {
    return _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(half, own)));
  };
  return static_cast<uint32_t>(bits(_mm256_loadu_si256(halves)) |
                               bits(_mm256_loadu_si256(halves + 1)) << 4);
#else
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<uint32_t>(words[i] == word) << i;
  return bits;
#endif
}

// Sums of the elements of eight vectors.
inline Vec<float, 8> sums_of(const Vec<float, 8>* v) {
  using V = Vec<float, 8>;
  V pair[4], quad[2];
  for (int i = 0; i < 4; ++i) {
    pair[i] = shuffle<0, 8, 2, 10, 4, 12, 6, 14>(v[2 * i], v[2 * i + 1]) +
              shuffle<1, 9, 3, 11, 5, 13, 7, 15>(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    quad[i] = shuffle<0, 1, 8, 9, 4, 5, 12, 13>(pair[2 * i], pair[2 * i + 1]) +
              shuffle<2, 3, 10, 11, 6, 7, 14, 15>(pair[2 * i], pair[2 * i + 1]);
  }
  return shuffle<0, 1, 2, 3, 8, 9, 10, 11>(quad[0], quad[1]) +
         shuffle<4, 5, 6, 7, 12, 13, 14, 15>(quad[0], quad[1]);
}
inline Vec<float, 8> sums_of(const Vec<float, 4>* v) {
  Vec<float, 8> sums;
  for (int i = 0; i < 8; ++i) sums[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
  return sums;
}

// Elements of v, by number; of a number outside 0 to 7 the lowest three bits count.
inline Vec<float, 8> permute8(Vec<float, 8> v, Vec<int32_t, 8> from) {
#if defined(__AVX2__)
  return (Vec<float, 8>)_mm256_permutevar8x32_ps((__m256)v, (__m256i)from);
#else
  Vec<float, 8> permuted;
  for (int i = 0; i < 8; ++i) permuted[i] = v[from[i] & 7];
  return permuted;
#endif
}

// Loads and inserts: no slower than the gather instruction where that is fast.
template <typename Index>
inline Vec<float, 8> gather8(const float* base, const Index* index) {
  return Vec<float, 8>{base[index[0]], base[index[1]], base[index[2]], base[index[3]],
                       base[index[4]], base[index[5]], base[index[6]], base[index[7]]};
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
