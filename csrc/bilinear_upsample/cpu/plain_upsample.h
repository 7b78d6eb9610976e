#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "axis.h"
#include "planes.h"

// Bilinear upsampling and its transpose. Both work on rows: of one plane, or of all channels of
// an image where these are innermost. A source row is stretched to the output's columns once, and
// serves all output rows that lie beside it.
namespace fastseg {
namespace FASTSEG_ISA {

constexpr int64_t kBandPixels = int64_t{1} << 16;  // output of one task, about

template <typename S>
class PlainUpsample {
 public:
  using T = Arithmetic<S>;
  using V = Vec<T, 8>;

  PlainUpsample(const ScoreLayout& layout, const UpsampleGeometry& geometry)
      : g_(geometry),
        rows_(geometry),
        blocks_(column_blocks<T>(geometry)),
        planes_(layout.channels_last ? layout.batch : layout.batch * layout.channels),
        inner_(layout.channels_last ? layout.channels : 1) {
    const int64_t cells = static_cast<int64_t>(rows_.cells.size());
    const int64_t cell_pixels = std::max<int64_t>(1, g_.height * g_.width * inner_ / cells);
    band_ = std::max<int64_t>(1, kBandPixels / cell_pixels);
    bands_ = (cells + band_ - 1) / band_;
  }

  void forward(const S* input, S* output, Parallel parallel) const {
    parallel(planes_ * bands_, [&](int64_t task) {
      const int64_t plane = task / bands_;
      forward_band(input + plane * g_.source_height * source_row(),
                   output + plane * g_.height * output_row(), task % bands_);
    });
  }

  void backward(const S* grad, S* grad_input, Parallel parallel) const {
    // Sums of half precision are made in a copy.
    constexpr bool kInPlace = std::is_same_v<S, T>;
    const int64_t size = planes_ * g_.source_height * source_row();
    Buffer<T> copy(kInPlace ? 0 : size);
    T* sums = copy.data();
    if constexpr (kInPlace) sums = grad_input;
    const int64_t plane_size = g_.source_height * source_row();
    parallel(planes_, [&](int64_t plane) {
      std::fill(sums + plane * plane_size, sums + (plane + 1) * plane_size, T{});
    });
    for_cells_that_add(planes_, bands_, parallel, [&](int64_t plane, int64_t band) {
      backward_band(grad + plane * g_.height * output_row(), sums + plane * plane_size, band);
    });
    if constexpr (!kInPlace) {
      parallel(planes_, [&](int64_t plane) {
        narrow_row(sums + plane * plane_size, plane_size, grad_input + plane * plane_size);
      });
    }
  }

 private:
  int64_t source_row() const { return g_.source_width * inner_; }
  int64_t output_row() const { return g_.width * inner_; }
  int64_t padded_source_row() const { return std::max(source_row(), kLeastPitch); }
  int64_t padded_output_row() const { return static_cast<int64_t>(blocks_.size()) * 8 * inner_; }

  void forward_band(const S* input, S* output, int64_t band) const {
    const int64_t stretched = padded_output_row(), size = output_row();
    Buffer<T> scratch(2 * stretched + padded_source_row());
    T* low = scratch.data();
    T* high = low + stretched;
    T* samples = high + stretched;
    int64_t high_row = -1;
    for_cells(band, [&](const CellRow& cell) {
      if (high_row == cell.low) {
        std::swap(low, high);
      } else {
        stretch(input + cell.low * source_row(), samples, low);
      }
      if (cell.high != cell.low || high_row != cell.low) {
        stretch(input + cell.high * source_row(), samples, high);
      } else {
        std::copy(low, low + stretched, high);
      }
      high_row = cell.high;
      for (int64_t y = cell.begin; y < cell.end; ++y) {
        const T high_weight = static_cast<T>(rows_.high_weight[y]);
        const T low_weight = static_cast<T>(1.0 - rows_.high_weight[y]);
        S* out = output + y * size;
        for (int64_t i = 0; i < size; ++i) {
          narrow(low_weight * low[i] + high_weight * high[i], out[i]);
        }
      }
    });
  }

  // A source row at the columns of the output.
  void stretch(const S* row, T* samples, T* stretched) const {
    const T* from = samples;
    if constexpr (std::is_same_v<S, T>) {
      if (source_row() >= kLeastPitch) from = row;
    }
    if (from == samples) widen_row(row, source_row(), samples);
    for (const Block<T>& block : blocks_) {
      if (inner_ == 1) {
        store(stretched + block.begin, interpolate_row(from, block));
        continue;
      }
      for (int64_t j = 0; j < block.count; ++j) {
        const T* low = from + (block.base + block.low[j]) * inner_;
        const T* high = from + (block.base + block.high[j]) * inner_;
        const T low_weight = block.low_weight[j], high_weight = block.high_weight[j];
        T* to = stretched + (block.begin + j) * inner_;
        for (int64_t c = 0; c < inner_; ++c) to[c] = low_weight * low[c] + high_weight * high[c];
      }
    }
  }

  void backward_band(const S* grad, T* sums, int64_t band) const {
    const int64_t stretched = padded_output_row(), size = output_row();
    Buffer<T> scratch(2 * stretched);
    T* low = scratch.data();
    T* high = low + stretched;
    for_cells(band, [&](const CellRow& cell) {
      std::fill(low, low + 2 * stretched, T{});
      for (int64_t y = cell.begin; y < cell.end; ++y) {
        const T high_weight = static_cast<T>(rows_.high_weight[y]);
        const T low_weight = static_cast<T>(1.0 - rows_.high_weight[y]);
        const S* from = grad + y * size;
        for (int64_t i = 0; i < size; ++i) {
          const T value = widen(from[i]);
          low[i] += low_weight * value;
          high[i] += high_weight * value;
        }
      }
      gather(low, sums + cell.low * source_row());
      gather(high, sums + cell.high * source_row());
    });
  }

  // The transpose of stretch, added to `sums`.
  void gather(const T* stretched, T* sums) const {
    for (const Block<T>& block : blocks_) {
      if (inner_ == 1 && (block.windowed && g_.source_width >= kLeastPitch)) {
        spread_row(load<V>(stretched + block.begin), block, sums);
        continue;
      }
      for (int64_t j = 0; j < block.count; ++j) {
        T* low = sums + (block.base + block.low[j]) * inner_;
        T* high = sums + (block.base + block.high[j]) * inner_;
        const T low_weight = block.low_weight[j], high_weight = block.high_weight[j];
        const T* from = stretched + (block.begin + j) * inner_;
        for (int64_t c = 0; c < inner_; ++c) {
          low[c] += low_weight * from[c];
          high[c] += high_weight * from[c];
        }
      }
    }
  }

  template <typename Use>
  void for_cells(int64_t band, Use&& use) const {
    const int64_t end = std::min<int64_t>((band + 1) * band_, rows_.cells.size());
    for (int64_t i = band * band_; i < end; ++i) use(rows_.cells[i]);
  }

  const UpsampleGeometry g_;
  const RowTable rows_;
  const std::vector<Block<T>> blocks_;
  const int64_t planes_, inner_;
  int64_t band_, bands_;  // cells in a band, bands in a plane
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
