#pragma once

#include <algorithm>
#include <cstdint>

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
  static void run(const Lattice<float>& lattice, float* values, int64_t groups,
                  Parallel parallel) {
    const int64_t stride = groups * kGroupFloats;
    gather_duplicates(lattice, values, stride, parallel);
    for (int j = 0; j <= lattice.dims(); ++j) {
      const auto& axis = lattice.axis(j);
      const int64_t tasks = std::clamp<int64_t>(axis.rows.size() / 1024, 1, 64);
      parallel(tasks, [&](int64_t task) {
        const auto [begin, end] = Lattice<float>::chain_range(axis, task, tasks);
        for (int64_t g = 0; g < groups; ++g) {
          blur_chains(axis, begin, end, values + g * kGroupFloats, stride);
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
  // Walks each chain with the previous and the current row in registers, so that it needs no
  // second copy of the rows.
  static void blur_chains(const typename Lattice<float>::Axis& axis, int64_t begin, int64_t end,
                          float* group, int64_t stride) {
    constexpr int64_t kAhead = 8;
    const int32_t* rows = axis.rows.data();
    const int64_t total = static_cast<int64_t>(axis.rows.size());
    for (int64_t chain = begin; chain < end; ++chain) {
      int64_t i = axis.starts[chain];
      const int64_t last = axis.starts[chain + 1] - 1;
      V previous[kGroup], own[kGroup];
      float* row = group + rows[i] * stride;
      for (int z = 0; z < kGroup; ++z) {
        previous[z] = V{};
        own[z] = load<V>(row + z * kLanesOfV);
      }
      for (; i < last; ++i) {
        if (kGroup > 1 && i + kAhead < total) {
          const float* ahead = group + rows[i + kAhead] * stride;
          __builtin_prefetch(ahead, 1);
          __builtin_prefetch(ahead + kGroupFloats - 1, 1);
        }
        float* next_row = group + rows[i + 1] * stride;
        for (int z = 0; z < kGroup; ++z) {
          const V next = load<V>(next_row + z * kLanesOfV);
          store(row + z * kLanesOfV, own[z] + (previous[z] + next) * 0.5f);
          previous[z] = own[z];
          own[z] = next;
        }
        row = next_row;
      }
      for (int z = 0; z < kGroup; ++z) {
        store(row + z * kLanesOfV, own[z] + previous[z] * 0.5f);
      }
    }
  }
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
