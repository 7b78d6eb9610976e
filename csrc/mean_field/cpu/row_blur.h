#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../../common/parallel.h"
#include "../../common/simd.h"
#include "../../permutohedral/cpu/lattice.h"

namespace fastseg {
namespace FASTSEG_ISA {

// Memory of a lattice's rows. An update reads a row and soon writes the row of the same number in
// the other memory; were both at the same place of a page, the processor would take the one for
// the other. So they lie skewed.
class RowMemory {
 public:
  RowMemory(size_t floats, int place) : memory_(floats + kSkew), skew_(place ? kSkew : 0) {}
  float* data() { return memory_.data() + skew_; }
  const float* data() const { return memory_.data() + skew_; }
  void swap(RowMemory& other) {
    memory_.swap(other.memory_);
    std::swap(skew_, other.skew_);
  }

 private:
  static constexpr size_t kSkew = 528;  // floats: half a page and a cache line
  Buffer<float> memory_;
  size_t skew_;
};

// Arithmetic on lattice rows of `groups` times kGroup vectors V; a row of one float is V = float,
// kGroup = 1, groups = 1.
template <typename V, int kGroup>
struct RowBlur {
  static constexpr int64_t kLanesOfV = sizeof(V) / sizeof(float);
  static constexpr int64_t kGroupFloats = kGroup * kLanesOfV;

  // values (rows, stride) in place: duplicates are added to their primary rows, each axis in turn
  // becomes v + (previous + next) / 2, and the result is copied back to the duplicates.
  static void run(const Lattice<float>& lattice, float* values, int64_t groups, Parallel parallel) {
    const int64_t stride = groups * kGroupFloats;
    gather_duplicates(lattice, values, stride, parallel);
    for (int j = 0; j <= lattice.dims(); ++j) {
      const auto& axis = lattice.axis(j);
      const int64_t tasks = std::clamp<int64_t>(axis.rows.size() / 1024, 1, 64);
      parallel(tasks, [&](int64_t task) {
        const int64_t begin = Lattice<float>::cut(axis, task, tasks);
        const int64_t end = Lattice<float>::cut(axis, task + 1, tasks);
        if constexpr (std::is_same_v<V, float>) {
          blur_values(axis, begin, end, values);
        } else {
          for (int64_t g = 0; g < groups; ++g) {
            blur_rows(axis, begin, end, values + g * kGroupFloats, stride);
          }
        }
      });
    }
    scatter_duplicates(lattice, values, stride, parallel);
  }

  static void gather_duplicates(const Lattice<float>& lattice, float* values, int64_t stride,
                                Parallel parallel) {
    const auto& pairs = lattice.duplicates();
    const int64_t count = static_cast<int64_t>(pairs.size());
    const int64_t tasks = std::min<int64_t>(count / 256 + 1, 16);
    // A task ends where the primary row changes: each row has one owner, each sum one order.
    const auto cut = [&](int64_t task) {
      int64_t i = count * task / tasks;
      while (i > 0 && i < count && pairs[i].primary == pairs[i - 1].primary) ++i;
      return i;
    };
    parallel(tasks, [&](int64_t task) {
      for (int64_t i = cut(task), end = cut(task + 1); i < end; ++i) {
        float* to = values + pairs[i].primary * stride;
        const float* from = values + pairs[i].duplicate * stride;
        for (int64_t l = 0; l < stride; l += kLanesOfV) {
          store(to + l, load<V>(to + l) + load<V>(from + l));
        }
      }
    });
  }

  static void scatter_duplicates(const Lattice<float>& lattice, float* values, int64_t stride,
                                 Parallel parallel) {
    const auto& pairs = lattice.duplicates();
    const int64_t count = static_cast<int64_t>(pairs.size());
    const int64_t tasks = std::min<int64_t>(count / 256 + 1, 16);
    parallel(tasks, [&](int64_t task) {
      for (int64_t i = count * task / tasks, end = count * (task + 1) / tasks; i < end; ++i) {
        std::memcpy(values + pairs[i].duplicate * stride, values + pairs[i].primary * stride,
                    stride * sizeof(float));
      }
    });
  }

 private:
  // Single values: most chains are short, and a loop over each of them would mispredict its end
  // each time. So the chains at positions [begin, end) are taken as one line with gaps in it.
  static void blur_values(const typename Lattice<float>::Axis& axis, int64_t begin, int64_t end,
                          float* values) {
    using F = Vec<float, kLanes>;
    using I = Vec<int32_t, kLanes>;
    using Byte = Vec<uint8_t, kLanes>;
    constexpr int64_t kTile = 512;
    const int32_t* rows = axis.rows.data();
    const uint8_t* heads = axis.heads.data();
    // The tile's values, after the one before it and before the one behind it.
    float own[1 + kTile + 1 + kLanes];
    own[0] = 0;
    for (int64_t first = begin; first < end; first += kTile) {
      const int64_t count = std::min(kTile, end - first);
      const int32_t* row = rows + first;
      for (int64_t i = 0; i < count; ++i) own[1 + i] = values[row[i]];
      own[1 + count] = first + count < end ? values[row[count]] : 0.0f;
      for (int64_t i = 0; i < count; i += kLanes) {
        const auto head_at = [&](int64_t at) {
          return __builtin_convertvector(load<Byte>(heads + first + at), I) != 0;
        };
        const F previous = head_at(i) ? F{} : load<F>(own + i);
        const F next = head_at(i + 1) ? F{} : load<F>(own + i + 2);
        alignas(32) float blurred[kLanes];
        store(blurred, load<F>(own + i + 1) + (previous + next) * 0.5f);
        const int64_t used = std::min<int64_t>(kLanes, count - i);
        for (int64_t p = 0; p < used; ++p) values[row[i + p]] = blurred[p];
      }
      own[0] = own[count];
    }
  }

  // The same with rows of labels: the previous and the current row stay in registers, so that no
  // second copy of the rows is needed.
  static void blur_rows(const typename Lattice<float>::Axis& axis, int64_t begin, int64_t end,
                        float* group, int64_t stride) {
    using I = Vec<int32_t, kLanesOfV>;
    constexpr int64_t kAhead = 8;
    if (begin == end) return;
    const int32_t* rows = axis.rows.data();
    const uint8_t* heads = axis.heads.data();
    float* row = group + rows[begin] * stride;
    V previous[kGroup] = {}, own[kGroup];
    for (int z = 0; z < kGroup; ++z) own[z] = load<V>(row + z * kLanesOfV);
    for (int64_t i = begin; i < end; ++i) {
      const float* ahead = group + rows[std::min(i + kAhead, end - 1)] * stride;
      __builtin_prefetch(ahead, 1);
      if (kGroup > 1) __builtin_prefetch(ahead + kGroupFloats - 1, 1);
      float* next_row = group + rows[std::min(i + 1, end - 1)] * stride;
      const I joined = broadcast<I>(heads[i + 1] - 1);  // all bits, but none where a chain ends
      for (int z = 0; z < kGroup; ++z) {
        const V next = load<V>(next_row + z * kLanesOfV);
        const V neighbours = previous[z] + (V)((I)next & joined);
        store(row + z * kLanesOfV, own[z] + neighbours * 0.5f);
        previous[z] = (V)((I)own[z] & joined);
        own[z] = next;
      }
      row = next_row;
    }
  }
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
