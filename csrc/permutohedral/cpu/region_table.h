#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../common/buffer.h"
#include "../../common/simd.h"
#include "lattice_key.h"

namespace fastseg {
namespace FASTSEG_ISA {

// All vertices of an image by their keys: buckets of eight, compared at once, where a vertex's
// place in the image (more generally: its first two features) says in which region of the table
// its bucket is. A vertex and its neighbours lie in the same or in adjoining regions, so that
// whoever goes through the image from top to bottom finds them in the caches.
template <int kWords>
class RegionTable {
 public:
  // For `keys` vertices with cells in the given ranges.
  RegionTable(const KeyFields<kWords>& fields, const std::vector<CellRange>& cells, int dims,
              int64_t keys)
      : fields_(fields), dims_(dims) {
    // The differences of the first coordinates grow with the first feature alone, and those of
    // their sum and twice the third with the second.
    const int64_t first = cells[0].extent(), second = dims > 1 ? cells[1].extent() : 1;
    const int64_t third = dims > 2 ? cells[2].extent() : 0;
    column_bias_ = second;
    line_bias_ = 2 * third;
    const int64_t columns = first + second, lines = first + second + 2 * third;
    const auto count = [&] {
      return ((columns >> column_shift_) + 1) * ((lines >> line_shift_) + 1);
    };
    while (count() > kMaxRegions || (count() > 1 && keys / count() < kFewestKeys)) {
      (columns >> column_shift_) > (lines >> line_shift_) ? ++column_shift_ : ++line_shift_;
    }
    columns_ = (columns >> column_shift_) + 1;
    regions_ = count();
  }

  int64_t regions() const { return regions_; }

  int64_t region(const Key<kWords>& key) const {
    const int64_t first = fields_.cell(key, 0), second = dims_ > 1 ? fields_.cell(key, 1) : 0;
    const int64_t third = dims_ > 2 ? fields_.cell(key, 2) : 0;
    const int64_t column = (first - second + column_bias_) >> column_shift_;
    const int64_t line = (first + second - 2 * third + line_bias_) >> line_shift_;
    return line * columns_ + column;
  }

  // counts (regions): how many keys each region is to hold at most.
  void reserve(const std::vector<int64_t>& counts) {
    starts_.assign(1, 0);
    for (int64_t count : counts) {
      starts_.push_back(starts_.back() + (count + count / 2) / kSlots + 1);
    }
    buckets_.reset(starts_.back());
  }

  void clear(int64_t first_region, int64_t end_region) {
    const int64_t first = starts_[first_region], end = starts_[end_region];
    std::memset(static_cast<void*>(buckets_.data() + first), 0xff, (end - first) * sizeof(Bucket));
  }

  // Value of the key, which becomes `value` where the key is new.
  int32_t find_or_insert(const Key<kWords>& key, uint64_t hash, int64_t region, int32_t value) {
    for (int64_t i = first_bucket(hash, region);; i = next_bucket(i, region)) {
      Bucket& bucket = buckets_[i];
      const uint32_t same = bucket.slots_of(key);
      if (same != 0) return bucket.value[__builtin_ctz(same)];
      const uint32_t empty = bucket.slots_of(kNoKey);
      if (empty == 0) continue;
      const int slot = __builtin_ctz(empty);
      for (int w = 0; w < kWords; ++w) bucket.word[w][slot] = key.word[w];
      return bucket.value[slot] = value;
    }
  }

  // Value of the key, or -1. Whether there is one is anybody's guess: no jump depends on it.
  int32_t find(const Key<kWords>& key, uint64_t hash, int64_t region) const {
    for (int64_t i = first_bucket(hash, region);; i = next_bucket(i, region)) {
      const Bucket& bucket = buckets_[i];
      const uint32_t same = bucket.slots_of(key);
      const bool full = bucket.word[0][kSlots - 1] != kNoKey.word[0];
      if (__builtin_expect(full & (same == 0), 0)) continue;
      const int32_t value = bucket.value[__builtin_ctz(same | 1u << (kSlots - 1))];
      return same != 0 ? value : -1;
    }
  }

  void prefetch(uint64_t hash, int64_t region) const {
    const Bucket& bucket = buckets_[first_bucket(hash, region)];
    __builtin_prefetch(&bucket);
    __builtin_prefetch(bucket.value);
  }

 private:
  static constexpr int64_t kMaxRegions = 4096, kFewestKeys = 256;
  static constexpr int kSlots = 8;
  static constexpr Key<kWords> no_key() {
    Key<kWords> key = {};
    for (int w = 0; w < kWords; ++w) key.word[w] = ~uint64_t{0};
    return key;
  }
  static constexpr Key<kWords> kNoKey = no_key();  // of remainder 31, which no vertex has

  // Slots are filled from the first on.
  struct alignas(32) Bucket {
    uint64_t word[kWords][kSlots];
    int32_t value[kSlots];

    // Bits of the slots that hold the key.
    uint32_t slots_of(const Key<kWords>& key) const {
      uint32_t slots = equal_bits(word[0], key.word[0]);
      for (int w = 1; w < kWords; ++w) slots &= equal_bits(word[w], key.word[w]);
      return slots;
    }
  };

  int64_t first_bucket(uint64_t hash, int64_t region) const {
    const uint64_t count = static_cast<uint64_t>(starts_[region + 1] - starts_[region]);
    return starts_[region] + static_cast<int64_t>(((hash >> 32) * count) >> 32);
  }
  int64_t next_bucket(int64_t i, int64_t region) const {
    return i + 1 < starts_[region + 1] ? i + 1 : starts_[region];
  }

  const KeyFields<kWords>& fields_;
  int dims_;
  int column_shift_ = 0, line_shift_ = 0;
  int64_t column_bias_, line_bias_, columns_, regions_;
  std::vector<int64_t> starts_;  // first bucket of each region, and the end
  Buffer<Bucket> buckets_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
