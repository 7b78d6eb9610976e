#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "label_field.h"

namespace fastseg {
namespace FASTSEG_ISA {

// Mean-field updates for two labels, vectors across the pixels. With s the difference of the two
// probabilities, q = (1 +- s) / 2, one filtered channel is enough: the difference of the logits is
//
//   u_1 - u_0 + sum_k (d_0 + d_1) / 2 F_k 1 + (d_0 - d_1) / 2 F_k s,   d = row 0 - row 1 of A_k,
//
// and for labels that differ in nothing but their unary d_0 + d_1 is zero.
class BinaryField {
 public:
  BinaryField(const PointOrder& order, const std::vector<FilterKernel>& kernels)
      : order_(order), kernels_(kernels) {
    for (const FilterKernel& kernel : kernels_) {
      values_.emplace_back(kernel.value_count());
      sums_.emplace_back(kernel.sum_count());
      units_.push_back(kernel.units(kernel.scale() * message_weights(kernel).difference));
      if (kernel.self_share() != nullptr) has_self_shares_ = true;
    }
  }

  Error run(const float* unary, int64_t iterations, Parallel parallel, float* q) {
    logits_.reset(order_.blocks() * kLanes);
    splat_.reset(logits_.size());
    std::atomic<bool> usable{true};
    for (int64_t t = 0; t <= iterations; ++t) {
      const bool last = t == iterations;
      parallel(order_.chunks(), [&](int64_t chunk) {
        if (t == 0) clear_sums(chunk);
        const bool chunk_usable = with_lattices(
            [&](auto corners) { return pass(corners, chunk, t == 0, last, unary, q); });
        if (!chunk_usable) usable = false;
      });
      if (!usable) return unusable_unary();
      if (t == 0 && !last) add_constant_messages(parallel);
      if (!last) blur(parallel);
    }
    return {};
  }

 private:
  using V = Vec<float, kLanes>;
  using Bits = Vec<int32_t, kLanes>;

  // As with_corners, and with planar kernels.
  template <typename Use>
  bool with_lattices(Use&& use) {
    constexpr int kPlanar = FilterKernel::kPlanar;
    if (kernels_.size() == 2) {
      if (kernels_[0].planar() && kernels_[1].dims() == 5) return use(Corners<kPlanar, 6>());
      if (kernels_[1].planar() && kernels_[0].dims() == 5) return use(Corners<6, kPlanar>());
      if (kernels_[0].planar() || kernels_[1].planar()) return use(Corners<0, 0>());
    }
    return with_corners(kernels_, use);
  }

  // What the filters of s and of one are multiplied with, in units of log 2.
  struct MessageWeights {
    float difference, constant;
  };
  static MessageWeights message_weights(const FilterKernel& kernel) {
    const auto& a = kernel.transform();
    float d0 = a[0], d1 = -a[0];
    if (a.size() == 2) d1 = -a[1];
    if (a.size() == 4) {
      d0 = a[0] - a[2];
      d1 = a[1] - a[3];
    }
    return {(d0 - d1) * 0.5f * kLog2E, (d0 + d1) * 0.5f * kLog2E};
  }

  // q_0 and q_1 from the difference of the logits.
  struct Probabilities {
    V first, second;
  };
  static Probabilities softmax(V logit) {
    const V odds =
        exp2_approx<kLanes>(vector_max(vector_min(logit, -logit), broadcast<V>(-127.0f)));
    const V larger = 1.0f / (1.0f + odds), smaller = odds * larger;
    const auto first_wins = logit > 0.0f;
    return {first_wins ? larger : smaller, first_wins ? smaller : larger};
  }

  // Difference of the logits before the first update; bits of *usable go out where a pixel has no
  // softmax.
  V start(const float* unary, const PointOrder::Block& block, Bits* usable) const {
    const float* first = unary + block.point;
    const float* second = first + order_.points();
    __builtin_prefetch(first + 2 * kLanes);  // the next column of this line of the strip
    __builtin_prefetch(second + 2 * kLanes);
    const V u0 = load_first(first, block.count), u1 = load_first(second, block.count);
    const V logits = (u1 - u0) * kLog2E;
    const V lowest = broadcast<V>(std::numeric_limits<float>::lowest());
    *usable &= (u0 >= lowest) & (u1 >= lowest) & (logits == logits);
    return logits;
  }

  // logits += (d_0 + d_1) / 2 F 1 for each kernel.
  void add_constant_messages(Parallel parallel) {
    Buffer<float> ones;
    for (const FilterKernel& kernel : kernels_) {
      const float weight = message_weights(kernel).constant;
      if (weight == 0) continue;
      if (ones.size() == 0) ones.reset(logits_.size());
      kernel.filter_ones(order_, parallel, ones.data());
      const float* share = kernel.self_share();
      parallel(order_.chunks(), [&](int64_t chunk) {
        order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
          const int64_t at = block.index * kLanes;
          V value = load<V>(ones.data() + at);
          if (share != nullptr) value -= load<V>(share + at);
          store(logits_.data() + at, load<V>(logits_.data() + at) + value * weight);
        });
      });
    }
  }

  float* sums_of(size_t k, int64_t chunk) { return sums_[k].data() + kernels_[k].chunk_sum(chunk); }

  void clear_sums(int64_t chunk) {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      std::fill(sums_of(k, chunk), sums_of(k, chunk + 1), 0.0f);
    }
  }

  void blur(Parallel parallel) {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      kernels_[k].blur(sums_[k].data(), values_[k].data(), parallel);
    }
  }

  // An s that moves by less is not splat again: no message changes by more than that
  // part of its largest value. After a few updates most pixels are sure of their label.
  static constexpr float kNegligible = 1.0f / (1 << 20);

  // One update of the chunk's pixels, or the start where `first`; writes Q where `last`, and
  // otherwise adds to the rows what has changed.
  template <typename Corners>
  bool pass(Corners, int64_t chunk, bool first, bool last, const float* unary, float* q) {
    Bits usable = ~Bits{};
    order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
      const int64_t at = block.index * kLanes;
      V logits;
      if (first) {
        logits = start(unary, block, &usable);
        store(logits_.data() + at, logits);
      } else {
        logits = load<V>(logits_.data() + at);
        if constexpr (Corners::first != 0) {
          logits += slice<Corners::first>(0, chunk, block);
          logits += slice<Corners::second>(1, chunk, block);
        } else {
          for (size_t k = 0; k < kernels_.size(); ++k) logits += slice<0>(k, chunk, block);
        }
        if (has_self_shares_) logits -= own_messages(block);
      }
      const Probabilities now = softmax(logits);
      if (last) return write(now, block, q);
      const V difference = now.first - now.second;
      V change = difference;
      if (!first) {
        change -= load<V>(splat_.data() + at);
        if (above_bits(vector_max(change, -change), broadcast<V>(kNegligible)) == 0) return;
      }
      store(splat_.data() + at, difference);
      if constexpr (Corners::first != 0) {
        splat<Corners::first>(0, chunk, block, change);
        splat<Corners::second>(1, chunk, block, change);
      } else {
        for (size_t k = 0; k < kernels_.size(); ++k) splat<0>(k, chunk, block, change);
      }
    });
    bool all_usable = true;
    for (int p = 0; p < kLanes; ++p) all_usable &= usable[p] != 0;
    return all_usable;
  }

  // Kernel k's messages.
  template <int kCorners>
  V slice(size_t k, int64_t chunk, const PointOrder::Block& block) const {
    return kernels_[k].slice<kCorners>(chunk, block, values_[k].data(), units_[k]);
  }

  template <int kCorners>
  void splat(size_t k, int64_t chunk, const PointOrder::Block& block, V change) {
    kernels_[k].splat<kCorners>(chunk, block, change, units_[k], sums_of(k, chunk));
  }

  // What the filters return of the pixels' own s.
  V own_messages(const PointOrder::Block& block) const {
    V messages = {};
    for (const FilterKernel& kernel : kernels_) {
      const float* share = kernel.self_share();
      if (share == nullptr) continue;
      messages += load<V>(share + block.index * kLanes) * message_weights(kernel).difference;
    }
    return messages * load<V>(splat_.data() + block.index * kLanes);
  }

  void write(const Probabilities& now, const PointOrder::Block& block, float* q) const {
    store_first(q + block.point, now.first, block.count);
    store_first(q + order_.points() + block.point, now.second, block.count);
  }

  const PointOrder& order_;
  const std::vector<FilterKernel>& kernels_;
  bool has_self_shares_ = false;
  Buffer<float> logits_;  // (blocks, 8): the part that no update changes, in units of log 2
  Buffer<float> splat_;   // (blocks, 8): s as far as the sums know it
  std::vector<Buffer<float>> sums_;    // by kernel: what has been splat so far
  std::vector<Buffer<float>> values_;  // by kernel: that, blurred
  std::vector<FilterKernel::Units> units_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
