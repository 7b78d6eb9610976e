#pragma once

#include <cstdint>

#include "conv_task.cuh"
#include "pixel_order.cuh"
#include "tap_cursor.cuh"
#include "tile_products.cuh"

// Convolution as a matrix product: the matrix of what the output pixels see, which is gathered
// from the input tile by tile and never stored, times the weights.
namespace fastseg {
namespace cuda {

template <typename S>
struct GemmTask {
  const S* input;
  Source source;
  PixelOrder order;
  Branches<S> branches;
  Finish<S> finish;
  int64_t pixels;         // of all images
  int64_t total_outputs;  // of all groups, or of all branches that are concatenated
  unsigned output_tiles;  // in all,
  unsigned group_tiles;   // and of a group
  int splits;
  float* partial;  // (splits, pixels, total_outputs), or null for one split
  bool planar;     // the output's neighbours are those of its row, not channels
  bool packs;      // whole packs of outputs lie on 16 bytes, in the residual too
};

// How a block's tile is made: by warps of kWarpPixels x kWarpOutputs sums each.
template <typename Number, typename WarpSums, int kTilePixels, int kTileOutputs, int kWarpPixels,
          int kWarpOutputs>
struct GemmConfig {
  using S = Number;
  using Sums = WarpSums;
  static constexpr int kPixels = kTilePixels, kOutputs = kTileOutputs;
  static constexpr int kPixelsOfWarp = kWarpPixels, kOutputsOfWarp = kWarpOutputs;
  static constexpr int kWarpsAcross = kOutputs / kOutputsOfWarp;
  static constexpr int kThreads = kPixels / kPixelsOfWarp * kWarpsAcross * 32;
  static constexpr int kStages = 3;
  static constexpr int kStageBytes = (kPixels + kOutputs) * kRowBytes;
  // Sums on their way out, of so many pixels at a time.
  static constexpr int kStaged = 64, kStagedRow = kOutputs + 4;
  static_assert(kStaged * kStagedRow * int{sizeof(float)} <= kStages * kStageBytes);
  static_assert(kStaged % kPixelsOfWarp == 0);
};

// A block's tile: which outputs of which branches, and which part of the depth.
template <typename C>
struct Tile {
  int64_t first_pixel;
  int64_t first_output;  // among all outputs
  int64_t group_output;  // and among those of its group or branch
  int64_t group;
  int first_branch, end_branch, split;
  int outputs;  // that there are of its kOutputs

  template <typename S>
  __device__ Tile(const GemmTask<S>& task, unsigned block) {
    const unsigned across = block % task.output_tiles;
    block /= task.output_tiles;
    split = static_cast<int>(block % task.splits);
    first_pixel = int64_t{block / task.splits} * C::kPixels;
    group = 0;
    first_branch = 0;
    end_branch = task.branches.count;
    unsigned tile = across;
    if (task.branches.concat) {
      int branch = end_branch - 1;
      while (task.branches[branch].first_tile > static_cast<int>(across)) --branch;
      tile -= task.branches[branch].first_tile;
      first_branch = branch;
      end_branch = branch + 1;
    } else {
      group = across / task.group_tiles;
      tile -= static_cast<unsigned>(group) * task.group_tiles;
    }
    const Branch<S>& branch = task.branches[first_branch];
    group_output = int64_t{tile} * C::kOutputs;
    first_output = branch.first_output + group * branch.outputs + group_output;
    const int64_t left = branch.outputs - group_output;
    outputs = left < C::kOutputs ? static_cast<int>(left) : C::kOutputs;
  }
};

__device__ __forceinline__ unsigned opaque(unsigned number) {
#if !defined(FASTSEG_SIMT)
  asm volatile("" : "+r"(number));
#endif
  return number;
}

// What one thread copies of each step: the same vector of every so many rows.
template <typename C>
class Loader {
 public:
  using S = typename C::S;

  __device__ Loader(const GemmTask<S>& task, const Tile<C>& tile, const PixelRun& run)
      : input_(task.input + tile.group * task.source.group_stride),
        cursor_(task.branches, task.source, Patch(task.order, run, pixels_of(task, tile)),
                tile.first_branch, tile.end_branch),
        source_(task.source),
        output_(tile.group * task.branches[tile.first_branch].outputs + tile.group_output + row()),
        outputs_left_(tile.outputs - row()) {
#pragma unroll
    for (int i = 0; i < kPixelRows; ++i) {
      const int pixel = row() + i * kRows;
      y_[i] = -(1 << 30);  // no tap sees anything from there
      x_[i] = 0;
      offset_[i] = 0;
      if (tile.first_pixel + pixel >= task.pixels) continue;
      const Place at = run.at(task.order, pixel);
      y_[i] = static_cast<int>(at.y) * source_.stride_y;
      x_[i] = static_cast<int>(at.x) * source_.stride_x;
      offset_[i] = at.image * source_.batch_stride + y_[i] * source_.row + x_[i] * source_.column;
    }
  }

  // Steps in all.
  __device__ int size() const {
    return static_cast<int>((cursor_.size() + kRowVectors - 1) / kRowVectors);
  }
  __device__ void seek(int step) { cursor_.seek(int64_t{step} * kRowVectors + vector()); }

  // Copies the next step's rows of pixels, and after them those of outputs.
  __device__ void load(char* rows) {
    const bool valid = cursor_.valid();
    const int64_t from = valid ? cursor_.input_offset() : 0;
#pragma unroll
    for (int i = 0; i < kPixelRows; ++i) {
      const int y = y_[i] + cursor_.down(), x = x_[i] + cursor_.across();
      const bool seen = valid && static_cast<unsigned>(y) < static_cast<unsigned>(source_.height) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(source_.width);
      copy_async(rows + vector_at(row() + i * kRows, vector()),
                 seen ? input_ + offset_[i] + from : input_, seen);
    }
    rows += C::kPixels * kRowBytes;
#pragma unroll
    for (int i = 0; i < kOutputRows; ++i) {
      const bool exists = valid && i * kRows < outputs_left_;
      copy_async(rows + vector_at(row() + i * kRows, vector()),
                 exists ? cursor_.weight(output_ + i * kRows) : input_, exists);
    }
    cursor_.advance(kRowVectors);
  }

 private:
  static constexpr int kRows = C::kThreads / kRowVectors;  // that are copied at once
  static constexpr int kPixelRows = C::kPixels / kRows, kOutputRows = C::kOutputs / kRows;
  static_assert(kPixelRows * kRows == C::kPixels && kOutputRows * kRows == C::kOutputs);

  __device__ static int row() { return threadIdx.x / kRowVectors; }
  __device__ static int vector() { return threadIdx.x % kRowVectors; }
  __device__ static int pixels_of(const GemmTask<S>& task, const Tile<C>& tile) {
    const int64_t left = task.pixels - tile.first_pixel;
    return left < C::kPixels ? static_cast<int>(left) : C::kPixels;
  }

  const S* input_;
  TapCursor<S> cursor_;
  const Source& source_;
  int64_t output_;
  int outputs_left_;
  int y_[kPixelRows], x_[kPixelRows];
  int64_t offset_[kPixelRows];
};

// Writes sums that are staged, of pixels from `first` of the tile on.
template <typename C>
__device__ void write_staged(const GemmTask<typename C::S>& task, const Tile<C>& tile,
                             const PixelRun& run, const float* staged, int first) {
  using S = typename C::S;
  constexpr int kPack = 16 / sizeof(S);
  const int64_t left = task.pixels - tile.first_pixel - first;
  const int pixels = left < C::kStaged ? static_cast<int>(left) : C::kStaged;
  const auto finished = [&](int pixel, int output) {
    return task.finish.value(task.branches, tile.first_branch, tile.end_branch,
                             tile.first_output + output, staged[pixel * C::kStagedRow + output]);
  };
  if (task.partial) {
    float* to = task.partial +
                (tile.split * task.pixels + tile.first_pixel + first) * task.total_outputs +
                tile.first_output;
#pragma unroll 1
    for (int i = threadIdx.x; i < C::kStaged * C::kOutputs; i += C::kThreads) {
      const int pixel = i / C::kOutputs, output = i % C::kOutputs;
      if (pixel >= pixels || output >= tile.outputs) continue;
      to[pixel * task.total_outputs + output] = staged[pixel * C::kStagedRow + output];
    }
  } else if (task.packs) {
    const Finish<S>& finish = task.finish;
#pragma unroll 1
    for (int i = threadIdx.x; i < C::kStaged * C::kOutputs / kPack; i += C::kThreads) {
      const int pixel = i / (C::kOutputs / kPack), output = i % (C::kOutputs / kPack) * kPack;
      if (pixel >= pixels || output >= tile.outputs) continue;
      const Place at = run.at(task.order, first + pixel);
      Pack<S, kPack> values, added;
      if (finish.residual.data) {
        added = load_pack<kPack>(finish.residual.data +
                                 finish.offset(finish.residual, at, tile.first_output + output));
      }
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        float value = finished(pixel, output + k);
        if (finish.residual.data) value += widen(added[k]);
        narrow(finish.activated(value), values[k]);
      }
      store_pack(values,
                 finish.output.data + finish.offset(finish.output, at, tile.first_output + output));
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < C::kStaged * C::kOutputs; i += C::kThreads) {
      const int pixel = task.planar ? i % C::kStaged : i / C::kOutputs;
      const int output = task.planar ? i / C::kStaged : i % C::kOutputs;
      if (pixel >= pixels || output >= tile.outputs) continue;
      task.finish.write(run.at(task.order, first + pixel), tile.first_output + output,
                        finished(pixel, output));
    }
  }
}

// A block owns a tile of the output, or of one part of its depth. Each step copies 64 bytes of the
// depth of every pixel and output, two steps ahead of the products; neighbouring threads copy
// neighbouring vectors of 16 bytes.
template <typename C>
__global__ void __launch_bounds__(C::kThreads, C::kThreads == 256 ? 1 : 4)
    convolve_tiles(const __grid_constant__ GemmTask<typename C::S> task) {
  FASTSEG_SHARED(uint4, shared, [C::kStages * C::kStageBytes / 16]);
  char* stages = reinterpret_cast<char*>(&shared[0]);
  const Tile<C> planned(task, blockIdx.x);
  Loader<C> loader(task, planned, PixelRun(task.order, planned.first_pixel));
  const int steps_of_all = loader.size();
  const int share = (steps_of_all + task.splits - 1) / task.splits;
  const int begin = share * planned.split;
  const int end = begin + share < steps_of_all ? begin + share : steps_of_all;
  const int steps = end > begin ? end - begin : 0;
  loader.seek(begin);
  for (int step = 0; step < C::kStages - 1; ++step) {
    if (step < steps) loader.load(stages + step * C::kStageBytes);
    __pipeline_commit();
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int pixel = warp / C::kWarpsAcross * C::kPixelsOfWarp;
  const int output = warp % C::kWarpsAcross * C::kOutputsOfWarp;
  typename C::Sums sums;
  int stage = 0, stage_to_load = C::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    __pipeline_wait_prior(C::kStages - 2);
    __syncthreads();  // all copies of this step are there, all products of the last one done
    if (step + C::kStages - 1 < steps) loader.load(stages + stage_to_load * C::kStageBytes);
    __pipeline_commit();
    const char* rows = stages + stage * C::kStageBytes;
    sums.add(rows + pixel * kRowBytes, rows + (C::kPixels + output) * kRowBytes, lane);
    stage = stage + 1 == C::kStages ? 0 : stage + 1;
    stage_to_load = stage_to_load + 1 == C::kStages ? 0 : stage_to_load + 1;
  }
  // The same once more, from a number that the compiler does not know to be the same: nothing of it
  // then stays in registers during the products.
  const Tile<C> tile(task, opaque(blockIdx.x));
  const PixelRun run(task.order, tile.first_pixel);
  float* staged = reinterpret_cast<float*>(stages);
  for (int first = 0; first < C::kPixels; first += C::kStaged) {
    __syncthreads();  // what is there has been read
    if (pixel >= first && pixel < first + C::kStaged) {
      sums.each(lane, [&](int i, int j, float sum) {
        staged[(pixel - first + i) * C::kStagedRow + output + j] = sum;
      });
    }
    __syncthreads();
    write_staged<C>(task, tile, run, staged, first);
  }
}

constexpr int kFinishThreads = 256;

// One thread adds the parts of one output, in the order of the depth.
template <typename S>
__global__ void __launch_bounds__(kFinishThreads)
    add_splits(const __grid_constant__ GemmTask<S> task) {
  const int64_t size = task.pixels * task.total_outputs;
  const int64_t at = int64_t{blockIdx.x} * kFinishThreads + threadIdx.x;
  if (at >= size) return;
  const int64_t output = task.planar ? at / task.pixels : at % task.total_outputs;
  const int64_t pixel = task.planar ? at % task.pixels : at / task.total_outputs;
  const float* part = task.partial + pixel * task.total_outputs + output;
  float sum = 0;
  for (int split = 0; split < task.splits; ++split) sum += part[split * size];
  const Branches<S>& branches = task.branches;
  const int first = branches.concat ? branches.of_output(output) : 0;
  const int end = branches.concat ? first + 1 : branches.count;
  const PixelRun run(task.order, pixel);
  task.finish.write(run.at(task.order, 0), output,
                    task.finish.value(branches, first, end, output, sum));
}

}  // namespace cuda
}  // namespace fastseg
