#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "label_field.h"

namespace fastseg {
namespace FASTSEG_ISA {

// Mean-field updates for two labels, vectors across the pixels. With q the probability of label 0
// and F a filter, F applied to label 1 is F 1 - F q: one filtered channel is enough, and the
// difference of the two logits is
//
//   u_1 - u_0 + sum_k (d_1 F_k 1 + (d_0 - d_1) F_k q),   d = row 0 - row 1 of A_k.
class BinaryField {
 public:
  BinaryField(const PointOrder& order, const std::vector<FilterKernel>& kernels)
      : order_(order), kernels_(kernels) {
    for (const FilterKernel& kernel : kernels_) {
      rows_.emplace_back(2 * kernel.lattice().rows(), 0);
      next_rows_.emplace_back(2 * kernel.lattice().rows(), 1);
      const auto [d0, d1] = logit_weights(kernel);
      units_.push_back(kernel.units(kernel.scale() * (d0 - d1)));
      if (kernel.self_share() != nullptr) has_self_shares_ = true;
    }
  }

  Error run(const float* unary, int64_t iterations, Parallel parallel, float* q) {
    logits_.reset(order_.blocks() * kLanes);
    if (has_self_shares_) q_.reset(logits_.size());
    if (!start(unary, parallel)) return unusable_unary();
    for (int64_t t = 0; t <= iterations; ++t) {
      const bool last = t == iterations;
      parallel(order_.chunks(), [&](int64_t chunk) {
        if (!last) clear_next_rows(chunk);
        with_corners(kernels_, [&](auto corners) { pass(corners, chunk, t == 0, last, q); });
      });
      if (t == 0 && !last) add_constant_messages(parallel);
      if (!last) blur(parallel);
    }
    return {};
  }

 private:
  using V = Vec<float, kLanes>;

  // d_0 and d_1 of the transform, in units of log 2.
  static std::pair<float, float> logit_weights(const FilterKernel& kernel) {
    const auto& a = kernel.transform();
    if (a.size() == 1) return {a[0] * kLog2E, -a[0] * kLog2E};
    if (a.size() == 2) return {a[0] * kLog2E, -a[1] * kLog2E};
    return {(a[0] - a[2]) * kLog2E, (a[1] - a[3]) * kLog2E};
  }

  static V sigmoid(V logit) {
    // Beyond 2^128 the power is infinite and the probability exactly 0.
    const V bounded = vector_min(vector_max(-logit, broadcast<V>(-126.0f)), broadcast<V>(128.0f));
    return 1.0f / (1.0f + exp2_approx<kLanes>(bounded));
  }

  bool start(const float* unary, Parallel parallel) {
    std::atomic<bool> usable{true};
    parallel(order_.chunks(), [&](int64_t chunk) {
      bool chunk_usable = true;
      order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
        const float* u0 = unary + block.point;
        const float* u1 = u0 + order_.points();
        for (int p = 0; p < kLanes; ++p) {
          const int i = std::min(p, block.count - 1);
          const float logit = (u1[i] - u0[i]) * kLog2E;
          constexpr float kLowest = std::numeric_limits<float>::lowest();
          chunk_usable &= u0[i] >= kLowest && u1[i] >= kLowest && logit == logit;
          logits_[block.index * kLanes + p] = logit;
        }
      });
      if (!chunk_usable) usable = false;
    });
    return usable;
  }

  // logits += d_1 F 1 for each kernel.
  void add_constant_messages(Parallel parallel) {
    Buffer<float> ones(logits_.size());
    for (const FilterKernel& kernel : kernels_) {
      kernel.filter_ones(order_, parallel, ones.data());
      const float weight = logit_weights(kernel).second;
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

  void clear_next_rows(int64_t chunk) {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      const auto& lattice = kernels_[k].lattice();
      const int64_t first = lattice.chunk_row(chunk), end = lattice.chunk_row(chunk + 1);
      std::memset(next_rows_[k].data() + first, 0, (end - first) * sizeof(float));
      std::memset(next_rows_[k].data() + lattice.rows() + first, 0, (end - first) * sizeof(float));
    }
  }

  void blur(Parallel parallel) {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      rows_[k].swap(next_rows_[k]);
      const auto& lattice = kernels_[k].lattice();
      parallel(order_.chunks(), [&](int64_t chunk) {
        float* even = rows_[k].data();
        const float* odd = even + lattice.rows();
        for (int64_t i = lattice.chunk_row(chunk); i < lattice.chunk_row(chunk + 1); ++i) {
          even[i] += odd[i];
        }
      });
      RowBlur<float, 1>::run(lattice, rows_[k].data(), 1, parallel);
    }
  }

  // One update of the chunk's pixels, or the start where `first`; writes Q where `last`, and
  // otherwise splats it for the next update.
  template <typename Corners>
  void pass(Corners, int64_t chunk, bool first, bool last, float* q) {
    std::vector<BlockEdges> edges(kernels_.size());
    order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
      alignas(64) float logits[kLanes];
      store(logits, load<V>(logits_.data() + block.index * kLanes));
      if constexpr (Corners::first > 0) {
        unpack<Corners::first>(0, block, &edges[0]);
        unpack<Corners::second>(1, block, &edges[1]);
        if (!first) {
          slice<Corners::first>(0, chunk, edges[0], logits);
          slice<Corners::second>(1, chunk, edges[1], logits);
        }
      } else {
        for (size_t k = 0; k < kernels_.size(); ++k) {
          unpack<0>(k, block, &edges[k]);
          if (!first) slice<0>(k, chunk, edges[k], logits);
        }
      }
      if (!first && has_self_shares_) subtract_own(block, logits);
      const V probability = sigmoid(load<V>(logits));
      if (last) return write(probability, block, q);
      if (has_self_shares_) store(q_.data() + block.index * kLanes, probability);
      if constexpr (Corners::first > 0) {
        splat<Corners::first>(0, chunk, edges[0], probability);
        splat<Corners::second>(1, chunk, edges[1], probability);
      } else {
        for (size_t k = 0; k < kernels_.size(); ++k) splat<0>(k, chunk, edges[k], probability);
      }
    });
  }

  template <int kCorners>
  void unpack(size_t k, const PointOrder::Block& block, BlockEdges* edges) const {
    kernels_[k].unpack<kCorners>(block.index, 1, units_[k], edges);
  }

  template <int kCorners>
  int edge_count(size_t k) const {
    return (kCorners > 0 ? kCorners : kernels_[k].lattice().dims() + 1) * kLanes;
  }

  // logits (8) += kernel k's messages, pixel by pixel: the loads are cheaper than a gather.
  template <int kCorners>
  void slice(size_t k, int64_t chunk, const BlockEdges& edges, float* logits) const {
    const float* rows = rows_[k].data() + kernels_[k].lattice().chunk_row(chunk);
    const int count = edge_count<kCorners>(k);
#pragma GCC unroll 8
    for (int p = 0; p < kLanes; ++p) {
      float sum = 0;
#pragma GCC unroll 6
      for (int i = p; i < count; i += kLanes) sum += rows[edges.offset[i]] * edges.slice[i];
      logits[p] += sum;
    }
  }

  // Neighbouring pixels add to the same rows, and each addition would wait for the one before:
  // every other pixel has rows of its own.
  template <int kCorners>
  void splat(size_t k, int64_t chunk, const BlockEdges& edges, V q) {
    const auto& lattice = kernels_[k].lattice();
    float* even = next_rows_[k].data() + lattice.chunk_row(chunk);
    float* odd = even + lattice.rows();
    const int count = edge_count<kCorners>(k);
    const uint32_t* offset = edges.offset;
    alignas(64) float parts[(kMaxFeatureDims + 1) * kLanes];
    for (int i = 0; i < count; i += kLanes) {
      store(parts + i, load<V>(edges.splat_weights + i) * q);
    }
#pragma GCC unroll 8
    for (int p = 0; p < kLanes; ++p) {
#pragma GCC unroll 6
      for (int i = p; i < count; i += kLanes) (p % 2 ? odd : even)[offset[i]] += parts[i];
    }
  }

  // Takes back what the filters return of the pixels' own q.
  void subtract_own(const PointOrder::Block& block, float* logits) const {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      const float* share = kernels_[k].self_share();
      if (share == nullptr) continue;
      const auto [d0, d1] = logit_weights(kernels_[k]);
      for (int p = 0; p < kLanes; ++p) {
        const int64_t i = block.index * kLanes + p;
        logits[p] -= (d0 - d1) * share[i] * q_[i];
      }
    }
  }

  void write(V probability, const PointOrder::Block& block, float* q) const {
    const V other = 1.0f - probability;
    std::memcpy(q + block.point, &probability, block.count * sizeof(float));
    std::memcpy(q + order_.points() + block.point, &other, block.count * sizeof(float));
  }

  const PointOrder& order_;
  const std::vector<FilterKernel>& kernels_;
  bool has_self_shares_ = false;
  Buffer<float> logits_;  // (blocks, 8): the part that no update changes, in units of log 2
  Buffer<float> q_;
  std::vector<RowMemory> rows_, next_rows_;  // (2, rows): of even and of odd pixels
  std::vector<FilterKernel::Units> units_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
