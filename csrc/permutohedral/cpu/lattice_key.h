#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../permutohedral.h"

namespace fastseg {
namespace FASTSEG_ISA {

// A lattice vertex as one integer: D biased cell coordinates and the remainder, each in a field
// of its own that no neighbour can overflow. One word nearly always; as many as needed otherwise.
template <int kWords>
struct Key {
  uint64_t word[kWords];

  friend bool operator==(const Key& a, const Key& b) {
    uint64_t difference = 0;
    for (int i = 0; i < kWords; ++i) difference |= a.word[i] ^ b.word[i];
    return difference == 0;
  }
  friend Key operator+(Key a, const Key& b) {
    for (int i = 0; i < kWords; ++i) a.word[i] += b.word[i];
    return a;
  }
  friend Key operator-(Key a, const Key& b) {
    for (int i = 0; i < kWords; ++i) a.word[i] -= b.word[i];
    return a;
  }
  uint64_t hash() const {
    uint64_t h = word[0] * 0x9E3779B97F4A7C15u;
    for (int i = 1; i < kWords; ++i) h = ((h ^ (h >> 29)) + word[i]) * 0xBF58476D1CE4E5B9u;
    return h ^ (h >> 32);
  }
};

// Bounds of a cell coordinate, wide enough for every step away from a point's simplex.
struct CellRange {
  double low, high;
  int64_t extent() const { return static_cast<int64_t>(high - low) + 1; }
};

// Where the fields of a key lie, and what moves along the lattice add to it.
template <int kWords>
struct KeyFields {
  int word[kMaxFeatureDims];
  int shift[kMaxFeatureDims];
  uint64_t mask[kMaxFeatureDims];
  int64_t low[kMaxFeatureDims];  // cell coordinate that is stored as zero
  int remainder_word, remainder_shift;
  Key<kWords> one[kMaxFeatureDims + 1];  // one cell along a coordinate; the last is implied
  Key<kWords> all;                       // sum of `one`
  Key<kWords> remainder_one;

  // False where the words are too few.
  bool lay_out(const std::vector<CellRange>& cells, int dims) {
    *this = {};
    int at = 0, used = 0;
    const auto place = [&](int bits) {
      if (used + bits > 64) {
        ++at;
        used = 0;
      }
      used += bits;
      return at < kWords;
    };
    for (int i = 0; i < dims; ++i) {
      int bits = 1;
      while (cells[i].high - cells[i].low >= std::ldexp(1.0, bits)) ++bits;
      if (!place(bits)) return false;
      word[i] = at;
      shift[i] = used - bits;
      mask[i] = (uint64_t{1} << bits) - 1;
      low[i] = static_cast<int64_t>(cells[i].low);
      one[i].word[at] = uint64_t{1} << shift[i];
      all = all + one[i];
    }
    if (!place(5)) return false;
    remainder_word = at;
    remainder_shift = used - 5;
    remainder_one = scaled_remainder(1);
    return true;
  }

  // Cell coordinate i of the key, above `low`.
  int64_t cell(const Key<kWords>& key, int i) const {
    return static_cast<int64_t>((key.word[word[i]] >> shift[i]) & mask[i]);
  }
  // The key's remainder, 0 to D.
  int remainder(const Key<kWords>& key) const {
    return static_cast<int>(key.word[remainder_word] >> remainder_shift) & 31;
  }
  Key<kWords> scaled_remainder(int r) const {
    Key<kWords> key = {};
    key.word[remainder_word] = static_cast<uint64_t>(r) << remainder_shift;
    return key;
  }
  // From a vertex of a simplex to the next: coordinate i one cell lower, the remainder one up.
  Key<kWords> step(int i) const { return remainder_one - one[i]; }
  // The next vertex along axis j: all coordinates one lower, but coordinate j higher by D.
  Key<kWords> next(const Key<kWords>& key, int j, int dims) const {
    if (remainder(key) > 0) return key - remainder_one + one[j];
    return key + scaled_remainder(dims) - (all - one[j]);
  }
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
