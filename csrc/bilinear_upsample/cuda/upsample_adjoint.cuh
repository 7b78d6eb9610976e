#pragma once

#include <cstdint>

#include "../../common/storage.cuh"
#include "axis_tables.cuh"

// The transpose of bilinear upsampling: every source sample gathers from the pixels of its window.
namespace fastseg {
namespace cuda {

// Arrays of (outer, rows, columns, inner) numbers: (B C, ., ., 1) for planes, (B, ., ., C) for
// channels_last.
struct AdjointShape {
  int64_t outer, inner;
  int64_t source_height, source_width, height, width;
  int32_t tile_columns;        // source columns of a block
  int64_t tiles, inner_tiles;  // along a source row, and along the inner numbers
  int64_t blocks;              // tiles in all
};

constexpr int kAdjointThreads = 256;

// What a block works on: `tile_columns` samples of one source row, times kInner inner numbers.
struct AdjointTile {
  int64_t outer, inner;
  int32_t row, first, last;  // source row; source columns [first, last)
};

__device__ __forceinline__ AdjointTile adjoint_tile(const AdjointShape& shape, int64_t number,
                                                    int inner_of_block) {
  AdjointTile tile;
  tile.inner = number % shape.inner_tiles * inner_of_block;
  number /= shape.inner_tiles;
  tile.first = static_cast<int32_t>(number % shape.tiles) * shape.tile_columns;
  number /= shape.tiles;
  tile.row = static_cast<int32_t>(number % shape.source_height);
  tile.outer = number / shape.source_height;
  const int32_t width = static_cast<int32_t>(shape.source_width);
  tile.last = width - tile.first < shape.tile_columns ? width : tile.first + shape.tile_columns;
  return tile;
}

// Threads are (kSlots, kInner): each first sums kPack neighbouring pixel columns over the rows of
// the window (neighbouring threads read neighbouring packs), then a source column over the pixels
// of its window, which lie in shared memory. Blocks take tiles in turn.
//
// `Gradient` has source(outer, inner), what at(source, y, x, values) needs to tell the numbers of
// kPack pixels to be summed, of which those past the row's end are not used, and
// write(sum, outer, inner, row, column).
template <typename T, int kInner, int kPack, typename Gradient>
__global__ void __launch_bounds__(kAdjointThreads / kPack)
    upsample_adjoint(Gradient gradient, AxisTables<T> tables, AdjointShape shape) {
  constexpr int kSlots = kAdjointThreads / kPack / kInner, kColumns = kSlots * kPack;
  FASTSEG_SHARED(T, column_sums, [kColumns][kInner]);
  const int slot = threadIdx.x / kInner, lane = threadIdx.x % kInner;

  for (int64_t number = blockIdx.x; number < shape.blocks; number += gridDim.x) {
    const AdjointTile tile = adjoint_tile(shape, number, kInner);
    const int64_t inner = tile.inner + lane;
    const Window rows = tables.row_windows[tile.row];
    const uint32_t begin = tables.column_windows[tile.first].begin / kPack * kPack;
    const uint32_t end = tables.column_windows[tile.last - 1].end;
    const bool owns = slot < tile.last - tile.first && inner < shape.inner;
    const int32_t column = owns ? tile.first + slot : tile.first;
    const Window columns = owns ? tables.column_windows[column] : Window{0, 0};

    const auto source = gradient.source(tile.outer, inner);
    T total = 0;
    for (uint32_t x = begin; x < end; x += kColumns) {
      T sums[kPack] = {};
      const uint32_t own = x + slot * kPack;
      if (own < end && inner < shape.inner) {
        for (uint32_t y = rows.begin; y < rows.end; ++y) {
          const T weight = weight_of(tables.rows[y], tile.row);
          T values[kPack];
          gradient.at(source, y, own, values);
#pragma unroll
          for (int i = 0; i < kPack; ++i) sums[i] += weight * values[i];
        }
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) column_sums[slot * kPack + i][lane] = sums[i];
      __syncthreads();
      const uint32_t from = columns.begin > x ? columns.begin : x;
      const uint32_t to = columns.end < x + kColumns ? columns.end : x + kColumns;
      for (uint32_t i = from; i < to; ++i) {
        total += weight_of(tables.columns[i], column) * column_sums[i - x][lane];
      }
      __syncthreads();
    }
    if (owns) gradient.write(total, tile.outer, inner, tile.row, column);
  }
}

inline AdjointShape adjoint_shape(const UpsampleGeometry& g, int64_t outer, int64_t inner,
                                  int inner_of_block, int pack) {
  const int64_t columns = kAdjointThreads / inner_of_block, slots = columns / pack;
  // So many that their windows, which overlap by one, fill the block's columns once.
  int64_t tile = (columns - pack) * g.source_width / g.width - 1;
  tile = tile < 1 ? 1 : tile > slots ? slots : tile;
  if (tile > g.source_width) tile = g.source_width;
  const int64_t tiles = (g.source_width + tile - 1) / tile;
  const int64_t inner_tiles = (inner + inner_of_block - 1) / inner_of_block;
  return {outer,
          inner,
          g.source_height,
          g.source_width,
          g.height,
          g.width,
          static_cast<int32_t>(tile),
          tiles,
          inner_tiles,
          outer * g.source_height * tiles * inner_tiles};
}

template <typename T, int kInner, int kPack, typename Gradient>
void launch_adjoint_tiles(const Gradient& gradient, const AxisTables<T>& tables,
                          const UpsampleGeometry& g, int64_t outer, int64_t inner,
                          cudaStream_t stream) {
  const AdjointShape shape = adjoint_shape(g, outer, inner, kInner, kPack);
  const int64_t largest_grid = FASTSEG_LARGEST_GRID;
  const auto blocks =
      static_cast<unsigned>(shape.blocks < largest_grid ? shape.blocks : largest_grid);
  FASTSEG_LAUNCH((upsample_adjoint<T, kInner, kPack, Gradient>), blocks, kAdjointThreads / kPack, 0,
                 stream, gradient, tables, shape);
}

// Of planes, in packs of kPack columns where their rows are `packed`; or of channels_last arrays:
// there 32 channels a block, so that a warp reads those of one pixel side by side, or 4 where there
// are few.
template <typename T, int kPack, typename Gradient>
void launch_adjoint(const Gradient& gradient, const AxisTables<T>& tables,
                    const UpsampleGeometry& g, const ScoreLayout& layout, bool packed,
                    cudaStream_t stream) {
  const int64_t channels = layout.channels, planes = layout.batch * channels;
  if (layout.channels_last && channels <= 4) {
    launch_adjoint_tiles<T, 4, 1>(gradient, tables, g, layout.batch, channels, stream);
  } else if (layout.channels_last) {
    launch_adjoint_tiles<T, 32, 1>(gradient, tables, g, layout.batch, channels, stream);
  } else if (packed) {
    launch_adjoint_tiles<T, 1, kPack>(gradient, tables, g, planes, 1, stream);
  } else {
    launch_adjoint_tiles<T, 1, 1>(gradient, tables, g, planes, 1, stream);
  }
}

}  // namespace cuda
}  // namespace fastseg
