#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "filter_kernel.h"

namespace fastseg {
namespace FASTSEG_ISA {

inline Error unusable_unary() {
  return value_error(
      "unary must hold no NaN and no -inf, and a finite energy for at least one label "
      "of each pixel, got a pixel that breaks this");
}

// Mean-field updates for any number of labels, vectors across the labels: a row of labels is
// `groups` times kGroup vectors, and kOneGroup says that it is one.
//
// One pass over the pixels does a whole update: it slices every kernel's rows, adds the unary,
// takes the softmax and at once splats the new Q into the rows of the next update, so that Q goes
// to memory only at the end. Between passes the rows are blurred.
template <typename V, int kGroup, bool kOneGroup>
class LabelField {
 public:
  LabelField(const PointOrder& order, const std::vector<FilterKernel>& kernels, int64_t labels,
             int64_t groups)
      : order_(order),
        kernels_(kernels),
        labels_(labels),
        groups_(groups),
        stride_(groups * kGroupFloats) {
    for (const FilterKernel& kernel : kernels_) {
      const size_t size = static_cast<size_t>(kernel.lattice().rows()) * stride_;
      rows_.emplace_back(size, 0);
      next_rows_.emplace_back(size, 1);
      if (kernel.self_share() != nullptr) has_self_shares_ = true;
    }
  }

  Error run(const float* unary, const float* initial, int64_t iterations, Parallel parallel,
            float* q) {
    set_transforms(kLog2E);
    if (iterations > 0) {
      unary_.reset(order_.blocks() * kLanes * stride_);
      if (has_self_shares_) q_.reset(unary_.size());
    }
    std::atomic<bool> usable{true};
    for (int64_t t = 0; t <= iterations; ++t) {
      const bool last = t == iterations;
      parallel(order_.chunks(), [&](int64_t chunk) {
        if (!last) clear_next_rows(chunk);
        const bool chunk_usable = with_corners(kernels_, [&](auto corners) {
          // Several groups of labels do not fit the registers anyway.
          using Used = std::conditional_t<kOneGroup, decltype(corners), Corners<0, 0>>;
          return pass(Used(), chunk, t == 0, last, unary, initial, q);
        });
        if (!chunk_usable) usable = false;
      });
      if (!usable) return unusable_unary();
      if (!last) blur(parallel);
    }
    return {};
  }

  void message(const float* q, Parallel parallel, float* message) {
    set_transforms(1.0f);
    if (has_self_shares_) q_.reset(order_.blocks() * kLanes * stride_);
    parallel(order_.chunks(), [&](int64_t chunk) {
      clear_next_rows(chunk);
      order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
        alignas(64) float values[kLanes * kMaxStride];
        read(q, block, values);
        keep_own(block, values);
        for (size_t k = 0; k < kernels_.size(); ++k) {
          BlockEdges edges;
          kernels_[k].unpack<0>(chunk, block.index, row_step(), units_[k], &edges);
          splat(k, chunk, edges, values);
        }
      });
    });
    blur(parallel);
    parallel(order_.chunks(), [&](int64_t chunk) {
      order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
        alignas(64) float values[kLanes * kMaxStride];
        std::memset(values, 0, kLanes * stride_ * sizeof(float));
        for (size_t k = 0; k < kernels_.size(); ++k) {
          BlockEdges edges;
          kernels_[k].unpack<0>(chunk, block.index, row_step(), units_[k], &edges);
          slice(k, chunk, edges, values);
        }
        if (has_self_shares_) subtract_own(block, values);
        write(values, block, message);
      });
    });
  }

 private:
  using Pixels = Vec<float, kLanes>;  // one value for each pixel of a block
  static constexpr int64_t kWidth = sizeof(V) / sizeof(float);
  static constexpr int64_t kGroupFloats = kGroup * kWidth;
  static constexpr int64_t kMaxStride = kOneGroup ? kGroupFloats : 1024;  // a thousand labels
  static constexpr int64_t kRowUnit = 2;    // floats; x86 multiplies an index by 8 bytes for free
  static constexpr float kAbsent = -1e30f;  // logit of the labels that fill up a row

  float* block_of(Buffer<float>& pixels, const PointOrder::Block& block) const {
    return pixels.data() + block.index * kLanes * stride_;
  }

  void clear_next_rows(int64_t chunk) {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      const auto& lattice = kernels_[k].lattice();
      const int64_t first = lattice.chunk_row(chunk), end = lattice.chunk_row(chunk + 1);
      std::memset(next_rows_[k].data() + first * stride_, 0,
                  (end - first) * stride_ * sizeof(float));
    }
  }

  // Splits each kernel's scale and transform, in units of `unit`, into a factor that goes into the
  // edges' weights and, where the labels differ, a product of the blurred rows.
  void set_transforms(float unit) {
    unit_ = unit;
    units_.clear();
    diagonals_.clear();
    matrices_.clear();
    for (const FilterKernel& kernel : kernels_) {
      const auto& transform = kernel.transform();
      const int64_t size = static_cast<int64_t>(transform.size());
      const float factor = kernel.scale() * unit;
      units_.push_back(kernel.units(size == 1 ? factor * transform[0] : factor));
      std::vector<float> diagonal, matrix;
      if (size == labels_ && size > 1) {
        diagonal = transform;
        diagonal.resize(stride_, 0.0f);
      }
      if (size > labels_) {
        matrix.assign(labels_ * stride_, 0.0f);
        for (int64_t l = 0; l < labels_; ++l) {
          for (int64_t m = 0; m < labels_; ++m) {
            matrix[m * stride_ + l] = transform[l * labels_ + m];
          }
        }
      }
      diagonals_.push_back(std::move(diagonal));
      matrices_.push_back(std::move(matrix));
    }
  }

  void blur(Parallel parallel) {
    for (size_t k = 0; k < kernels_.size(); ++k) {
      rows_[k].swap(next_rows_[k]);
      const auto& lattice = kernels_[k].lattice();
      RowBlur<V, kGroup>::run(lattice, rows_[k].data(), groups_, parallel);
      if (diagonals_[k].empty() && matrices_[k].empty()) continue;
      const int64_t tasks = std::clamp<int64_t>(lattice.rows() / 256, 1, 256);
      parallel(tasks, [&](int64_t task) {
        const int64_t end = lattice.rows() * (task + 1) / tasks;
        for (int64_t row = lattice.rows() * task / tasks; row < end; ++row) {
          float* labels = rows_[k].data() + row * stride_;
          if (matrices_[k].empty()) {
            for (int64_t l = 0; l < stride_; ++l) labels[l] *= diagonals_[k][l];
          } else {
            multiply(matrices_[k], labels);
          }
        }
      });
    }
  }

  // row = A row, with A transposed in `matrix` (L, stride).
  void multiply(const std::vector<float>& matrix, float* row) const {
    alignas(64) float result[kMaxStride];
    for (int64_t g = 0; g < stride_; g += kGroupFloats) {
      V sum[kGroup] = {};
      for (int64_t m = 0; m < labels_; ++m) {
        const float value = row[m];
        const float* column = matrix.data() + m * stride_ + g;
        for (int z = 0; z < kGroup; ++z) sum[z] += load<V>(column + z * kWidth) * value;
      }
      for (int z = 0; z < kGroup; ++z) store(result + g + z * kWidth, sum[z]);
    }
    std::memcpy(row, result, stride_ * sizeof(float));
  }

  // The block's logits, or its part of `initial`, before the first update. An energy of +inf
  // rules its label out; false for a unary that leaves a pixel without a softmax.
  bool start(const float* unary, const float* initial, const PointOrder::Block& block,
             float* values) {
    Pixels highest = broadcast<Pixels>(kAbsent), not_a_number = {};
    for (int64_t l = 0; l < labels_; ++l) {
      const Pixels energy = read_plane(unary, block, l);
      highest = vector_max(highest, energy * -kLog2E);
      not_a_number += energy != energy ? broadcast<Pixels>(1.0f) : Pixels{};
    }
    const auto refused = (highest <= kAbsent) | (not_a_number > 0.0f) |
                         (highest > std::numeric_limits<float>::max());
    bool usable = true;
    for (int p = 0; p < kLanes; ++p) usable &= refused[p] == 0;

    const Pixels absent = broadcast<Pixels>(kAbsent);
    transpose(values, absent, [&](int64_t l) {
      return vector_max(read_plane(unary, block, l) * -kLog2E - highest, absent);
    });
    if (unary_.size() > 0) {
      std::memcpy(block_of(unary_, block), values, kLanes * stride() * sizeof(float));
    }
    if (initial != nullptr) read(initial, block, values);
    return usable;
  }

  // Compile-time constant where rows are one group.
  int64_t stride() const { return kOneGroup ? kGroupFloats : stride_; }
  // What BlockEdges count for one row.
  uint32_t row_step() const { return static_cast<uint32_t>(stride() / kRowUnit); }

  float* rows_of(std::vector<RowMemory>& rows, size_t k, int64_t chunk) {
    return rows[k].data() + kernels_[k].lattice().chunk_row(chunk) * stride();
  }

  // One update of the chunk's pixels, or the start where `first`; writes Q where `last`, and
  // otherwise splats it for the next update.
  template <typename Corners>
  bool pass(Corners corners, int64_t chunk, bool first, bool last, const float* unary,
            const float* initial, float* q) {
    bool usable = true;
    order_.for_each_block(chunk, [&](const PointOrder::Block& block) {
      alignas(64) float values[kLanes * kMaxStride];
      BlockEdges edges[2];
      if constexpr (Corners::first > 0) {
        kernels_[0].template unpack<Corners::first>(chunk, block.index, row_step(), units_[0],
                                                    &edges[0]);
        kernels_[1].template unpack<Corners::second>(chunk, block.index, row_step(), units_[1],
                                                     &edges[1]);
      }
      Pixels scale = broadcast<Pixels>(1.0f);
      if (!first) {
        scale = update(corners, chunk, block, edges, values);
      } else {
        usable &= start(unary, initial, block, values);
        if (initial == nullptr) scale = 1.0f / exponentiate(values);
      }
      if (last || has_self_shares_ || Corners::first == 0) multiply_pixels(scale, values);
      if (last) return write(values, block, q);
      keep_own(block, values);
      if constexpr (Corners::first > 0) {
        if (has_self_shares_) scale = broadcast<Pixels>(1.0f);
        splat_both(corners, chunk, edges, values, scale);
      } else {
        for (size_t k = 0; k < kernels_.size(); ++k) {
          kernels_[k].template unpack<0>(chunk, block.index, row_step(), units_[k], &edges[0]);
          splat(k, chunk, edges[0], values);
        }
      }
    });
    return usable;
  }

  // values (8, stride) = Q of the block after an update, but for the factors that are returned,
  // one for each pixel. The logits seldom need their maximum
  // subtracted, for the unary's is zero already; where a sum of powers shows that they do, the
  // block is done again.
  template <typename Corners>
  Pixels update(Corners corners, int64_t chunk, const PointOrder::Block& block,
                const BlockEdges* edges, float* values) {
    logits(corners, chunk, block, edges, values);
    const Pixels total = exponentiate(values);
    if (within_range(total)) return 1.0f / total;
    logits(corners, chunk, block, edges, values);
    return softmax(values);
  }

  static bool within_range(Pixels sums) {
    const auto outside = (sums > 1e-30f) & (sums < 1e30f);
    bool within = true;
    for (int p = 0; p < kLanes; ++p) within &= outside[p] != 0;
    return within;
  }

  // values (8, stride) = unary and messages.
  template <typename Corners>
  void logits(Corners, int64_t chunk, const PointOrder::Block& block, const BlockEdges* edges,
              float* values) {
    const float* unary = block_of(unary_, block);
    // Two blocks ahead: the hardware's own prefetching gives up at the end of each page.
    for (int64_t i = 0; kOneGroup && i < kLanes * stride(); i += 16) {
      __builtin_prefetch(unary + 2 * kLanes * stride() + i);
    }
    if constexpr (Corners::first > 0) {
      const float* first_rows = rows_of(rows_, 0, chunk);
      const float* second_rows = rows_of(rows_, 1, chunk);
      for (int p = 0; p < kLanes; ++p) {
        V logit[kGroup];
        load_group(unary + p * stride(), logit);
        slice_pixel<Corners::first>(edges[0], Corners::first, p, first_rows, logit);
        slice_pixel<Corners::second>(edges[1], Corners::second, p, second_rows, logit);
        store_group(values + p * stride(), logit);
      }
    } else {
      std::memcpy(values, unary, kLanes * stride() * sizeof(float));
      for (size_t k = 0; k < kernels_.size(); ++k) {
        BlockEdges own;
        kernels_[k].template unpack<0>(chunk, block.index, row_step(), units_[k], &own);
        slice(k, chunk, own, values);
      }
    }
    if (has_self_shares_) subtract_own(block, values);
  }

  static void load_group(const float* from, V* value) {
    for (int z = 0; z < kGroup; ++z) value[z] = load<V>(from + z * kWidth);
  }
  static void store_group(float* to, const V* value) {
    for (int z = 0; z < kGroup; ++z) store(to + z * kWidth, value[z]);
  }

  // values (8, stride) += kernel k's messages.
  void slice(size_t k, int64_t chunk, const BlockEdges& edges, float* values) {
    const int corners = kernels_[k].lattice().dims() + 1;
    for (int64_t g = 0; g < stride(); g += kGroupFloats) {
      const float* rows = rows_of(rows_, k, chunk) + g;
      for (int p = 0; p < kLanes; ++p) {
        V value[kGroup];
        load_group(values + p * stride() + g, value);
        slice_pixel<0>(edges, corners, p, rows, value);
        store_group(values + p * stride() + g, value);
      }
    }
  }

  // Probabilities below kNegligible are not splat where all labels of a vector are: no message
  // changes by more than that part of its largest value. Most pixels are sure of their label, and
  // then one vector of labels is all that has to be added to the rows.
  static constexpr float kNegligible = 1.0f / (1 << 20);

  // The rows of kernel k's next update += values (8, stride).
  void splat(size_t k, int64_t chunk, const BlockEdges& edges, const float* values) {
    const int corners = kernels_[k].lattice().dims() + 1;
    for (int64_t g = 0; g < stride(); g += kGroupFloats) {
      float* rows = rows_of(next_rows_, k, chunk) + g;
      for (int p = 0; p < kLanes; ++p) {
        V value[kGroup];
        load_group(values + p * stride() + g, value);
        V highest = value[0];
        for (int z = 1; z < kGroup; ++z) highest = vector_max(highest, value[z]);
        if (above_bits(highest, broadcast<V>(kNegligible)) == 0) continue;
        splat_pixel<0, kGroup>(edges, corners, p, rows, value);
      }
    }
  }

  // The rows of both kernels' next update += scale * values (8, stride).
  template <typename Corners>
  void splat_both(Corners, int64_t chunk, const BlockEdges* edges, const float* values,
                  Pixels scale) {
    float* first_rows = rows_of(next_rows_, 0, chunk);
    float* second_rows = rows_of(next_rows_, 1, chunk);
    alignas(64) float factors[kLanes];
    store(factors, scale);
    for (int p = 0; p < kLanes; ++p) {
      V value[kGroup];
      load_group(values + p * stride(), value);
      int above = 0;
      int64_t where = 0;
      for (int z = 0; z < kGroup; ++z) {
        value[z] *= factors[p];
        const bool counts = kGroup == 1 || above_bits(value[z], broadcast<V>(kNegligible)) != 0;
        above += counts;
        where = counts ? z * kWidth : where;
      }
      if (kGroup > 1 && above == 1) {
        const V only = load<V>(values + p * stride() + where) * factors[p];
        splat_pixel<Corners::first, 1>(edges[0], Corners::first, p, first_rows + where, &only);
        splat_pixel<Corners::second, 1>(edges[1], Corners::second, p, second_rows + where, &only);
      } else {
        splat_pixel<Corners::first, kGroup>(edges[0], Corners::first, p, first_rows, value);
        splat_pixel<Corners::second, kGroup>(edges[1], Corners::second, p, second_rows, value);
      }
    }
  }

  template <int kCorners>
  static void slice_pixel(const BlockEdges& edges, int corners, int p, const float* rows,
                          V* value) {
#pragma GCC unroll 6
    for (int r = 0; r < (kCorners > 0 ? kCorners : corners); ++r) {
      const float* from = rows + uint64_t{edges.offset[r * kLanes + p]} * kRowUnit;
      const V weight = broadcast<V>(edges.slice[r * kLanes + p]);
      for (int z = 0; z < kGroup; ++z) value[z] += load<V>(from + z * kWidth) * weight;
    }
  }

  template <int kCorners, int kVectors>
  static void splat_pixel(const BlockEdges& edges, int corners, int p, float* rows,
                          const V* value) {
    const float* weights = edges.splat_weights;
#pragma GCC unroll 6
    for (int r = 0; r < (kCorners > 0 ? kCorners : corners); ++r) {
      float* to = rows + uint64_t{edges.offset[r * kLanes + p]} * kRowUnit;
      const V weight = broadcast<V>(weights[r * kLanes + p]);
      for (int z = 0; z < kVectors; ++z) {
        store(to + z * kWidth, load<V>(to + z * kWidth) + value[z] * weight);
      }
    }
  }

  void multiply_pixels(Pixels scale, float* values) const {
    for (int p = 0; p < kLanes; ++p) {
      const V factor = broadcast<V>(scale[p]);
      for (int64_t l = p * stride(); l < (p + 1) * stride(); l += kWidth) {
        store(values + l, load<V>(values + l) * factor);
      }
    }
  }

  void keep_own(const PointOrder::Block& block, const float* values) {
    if (!has_self_shares_) return;
    std::memcpy(block_of(q_, block), values, kLanes * stride_ * sizeof(float));
  }

  // Takes back what the filters return of the pixels' own Q.
  void subtract_own(const PointOrder::Block& block, float* values) {
    const float* own = block_of(q_, block);
    for (size_t k = 0; k < kernels_.size(); ++k) {
      if (kernels_[k].self_share() == nullptr) continue;
      const float* share = kernels_[k].self_share() + block.index * kLanes;
      const auto& transform = kernels_[k].transform();
      const int64_t size = static_cast<int64_t>(transform.size());
      for (int p = 0; p < kLanes; ++p) {
        for (int64_t l = 0; l < labels_; ++l) {
          float message = 0;
          if (size > labels_) {
            for (int64_t m = 0; m < labels_; ++m) {
              message += transform[l * labels_ + m] * own[p * stride_ + m];
            }
          } else {
            message = transform[size == 1 ? 0 : l] * own[p * stride_ + l];
          }
          values[p * stride_ + l] -= unit_ * share[p] * message;
        }
      }
    }
  }

  // values (8, stride) = 2^values; returns the pixels' sums.
  Pixels exponentiate(float* values) const {
    V sums[kLanes];
    for (int p = 0; p < kLanes; ++p) {
      sums[p] = V{};
      for (int64_t l = p * stride(); l < (p + 1) * stride(); l += kWidth) {
        const V power = exp2_approx<kWidth>(vector_min(load<V>(values + l), broadcast<V>(126.0f)));
        store(values + l, power);
        sums[p] += power;
      }
    }
    return sums_of(sums);
  }

  // Softmax of logits in units of log 2, but for the factors that are returned.
  Pixels softmax(float* values) const {
    for (int p = 0; p < kLanes; ++p) {
      float* logit = values + p * stride();
      float highest = logit[0];
      for (int64_t l = 1; l < labels_; ++l) highest = std::max(highest, logit[l]);
      for (int64_t l = 0; l < labels_; ++l) logit[l] -= highest;
    }
    return 1.0f / exponentiate(values);
  }

  // Label l of planes (L, N) at the block's pixels; lanes past the image repeat its last pixel.
  Pixels read_plane(const float* planes, const PointOrder::Block& block, int64_t l) const {
    const float* from = planes + l * order_.points() + block.point;
    __builtin_prefetch(from + 2 * kLanes);  // the next column of this line of the strip
    return load_first(from, block.count);
  }

  // values (8, stride) = plane(l) for each label l, `filler` for the labels that fill up a row.
  template <typename Plane>
  void transpose(float* values, Pixels filler, Plane&& plane) const {
    for (int64_t first = 0; first < stride(); first += kLanes) {
      Pixels planes[kLanes], pixels[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        planes[i] = first + i < labels_ ? plane(first + i) : filler;
      }
      transpose8(planes, pixels);
      const int64_t width = std::min<int64_t>(kLanes, stride() - first);
      for (int p = 0; p < kLanes; ++p) {
        store_first(values + p * stride() + first, pixels[p], width);
      }
    }
  }

  // values (8, stride) = planes (L, N) at the block's pixels.
  void read(const float* planes, const PointOrder::Block& block, float* values) const {
    transpose(values, Pixels{}, [&](int64_t l) { return read_plane(planes, block, l); });
  }

  // planes (L, N) = values (8, stride) at the block's pixels.
  void write(const float* values, const PointOrder::Block& block, float* planes) const {
    const int64_t points = order_.points();
    for (int64_t first = 0; first < labels_; first += kLanes) {
      Pixels pixel[kLanes] = {}, plane[kLanes];
      const int64_t width = std::min<int64_t>(kLanes, stride() - first);
      for (int p = 0; p < kLanes; ++p) {
        const float* from = values + p * stride() + first;
        if (width == kLanes) {
          pixel[p] = load<Pixels>(from);
        } else {
          std::memcpy(&pixel[p], from, width * sizeof(float));
        }
      }
      transpose8(pixel, plane);
      for (int64_t l = first; l < std::min(labels_, first + kLanes); ++l) {
        float* to = planes + l * points + block.point;
        __builtin_prefetch(to + 2 * kLanes, 1);
        store_first(to, plane[l - first], block.count);
      }
    }
  }

  const PointOrder& order_;
  const std::vector<FilterKernel>& kernels_;
  const int64_t labels_;
  const int64_t groups_;
  const int64_t stride_;
  bool has_self_shares_ = false;
  float unit_ = 1.0f;
  Buffer<float> unary_;  // (blocks, 8, stride): -U in units of log 2, its maximum at 0
  Buffer<float> q_;      // (blocks, 8, stride): only where messages to oneself are taken back
  std::vector<RowMemory> rows_, next_rows_;
  std::vector<FilterKernel::Units> units_;
  std::vector<std::vector<float>> diagonals_, matrices_;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
