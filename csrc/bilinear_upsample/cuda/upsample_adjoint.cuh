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

// Threads are (kColumns, kInner): each first sums a pixel column over the rows of the window
// (neighbouring threads read neighbouring numbers), then a source column over the pixels of its
// window, which lie in shared memory. Blocks take tiles in turn.
//
// `Gradient` has source(outer, inner), what at(source, y, x) needs to tell the number to be summed,
// and write(sum, outer, inner, row, column).
template <typename T, int kInner, typename Gradient>
__global__ void __launch_bounds__(kAdjointThreads)
    upsample_adjoint(Gradient gradient, AxisTables<T> tables, AdjointShape shape) {
  constexpr int kColumns = kAdjointThreads / kInner;
  FASTSEG_SHARED(T, column_sums, [kColumns][kInner]);
  const int slot = threadIdx.x / kInner, lane = threadIdx.x % kInner;

  for (int64_t number = blockIdx.x; number < shape.blocks; number += gridDim.x) {
    const AdjointTile tile = adjoint_tile(shape, number, kInner);
    const int64_t inner = tile.inner + lane;
    const Window rows = tables.row_windows[tile.row];
    const uint32_t begin = tables.column_windows[tile.first].begin;
    const uint32_t end = tables.column_windows[tile.last - 1].end;
    const bool owns = slot < tile.last - tile.first && inner < shape.inner;
    const int32_t column = owns ? tile.first + slot : tile.first;
    const Window columns = owns ? tables.column_windows[column] : Window{0, 0};

    const auto source = gradient.source(tile.outer, inner);
    T total = 0;
    for (uint32_t x = begin; x < end; x += kColumns) {
      T sum = 0;
      if (x + slot < end && inner < shape.inner) {
        for (uint32_t y = rows.begin; y < rows.end; ++y) {
          sum += weight_of(tables.rows[y], tile.row) * gradient.at(source, y, x + slot);
        }
      }
      column_sums[slot][lane] = sum;
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
                                  int inner_of_block) {
  const int64_t columns = kAdjointThreads / inner_of_block;
  // So many that their windows together fill the block's threads once.
  int64_t tile = columns * g.source_width / g.width;
  tile = tile < 1 ? 1 : tile > columns ? columns : tile;
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

template <typename T, int kInner, typename Gradient>
void launch_adjoint_tiles(const Gradient& gradient, const AxisTables<T>& tables,
                          const UpsampleGeometry& g, int64_t outer, int64_t inner,
                          cudaStream_t stream) {
  const int64_t largest_grid = FASTSEG_LARGEST_GRID;
  const AdjointShape shape = adjoint_shape(g, outer, inner, kInner);
  const auto blocks =
      static_cast<unsigned>(shape.blocks < largest_grid ? shape.blocks : largest_grid);
  FASTSEG_LAUNCH((upsample_adjoint<T, kInner, Gradient>), blocks, kAdjointThreads, 0, stream,
                 gradient, tables, shape);
}

// Of planes, or of channels_last arrays: there 32 channels a block, so that a warp reads those of
// one pixel, or 4 where there are few.
template <typename T, typename Gradient>
void launch_adjoint(const Gradient& gradient, const AxisTables<T>& tables,
                    const UpsampleGeometry& g, const ScoreLayout& layout, cudaStream_t stream) {
  const int64_t channels = layout.channels;
  if (!layout.channels_last) {
    launch_adjoint_tiles<T, 1>(gradient, tables, g, layout.batch * channels, 1, stream);
  } else if (channels <= 4) {
    launch_adjoint_tiles<T, 4>(gradient, tables, g, layout.batch, channels, stream);
  } else {
    launch_adjoint_tiles<T, 32>(gradient, tables, g, layout.batch, channels, stream);
  }
}

}  // namespace cuda
}  // namespace fastseg
