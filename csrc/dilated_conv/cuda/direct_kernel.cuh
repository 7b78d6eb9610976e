#pragma once

#include <cstdint>

#include "conv_task.cuh"

// Convolution with one thread for each output: any geometry, type, and strides, and the kernel for
// depthwise convolutions, whose products are too few for tiles.
namespace fastseg {
namespace cuda {

constexpr int kDirectThreads = 256;

template <typename S>
struct DirectTask {
  Image<const S> input;
  Branches<S> branches;
  Finish<S> finish;
  int64_t height, width, out_height, out_width, stride_y, stride_x;
  int64_t group_inputs, groups, total_outputs, count;
  bool planar;  // the output's neighbours are those of its row, not channels
};

// The sum of one branch at one output pixel, in the order of rows, columns and channels.
template <typename S>
__device__ Arithmetic<S> branch_sum(const DirectTask<S>& task, const Branch<S>& branch,
                                    const Place& at, int64_t output, int64_t first_channel) {
  Arithmetic<S> sum = 0;
  const S* weight = branch.weight + output * branch.output_stride;
  const S* image =
      task.input.data + at.image * task.input.batch + first_channel * task.input.channel;
  for (int64_t i = 0; i < branch.kernel_height; ++i) {
    const int64_t y = at.y * task.stride_y - branch.top + i * branch.rate_y;
    if (y < 0 || y >= task.height) continue;
    for (int64_t j = 0; j < branch.kernel_width; ++j) {
      const int64_t x = at.x * task.stride_x - branch.left + j * branch.rate_x;
      if (x < 0 || x >= task.width) continue;
      const S* pixel = image + y * task.input.row + x * task.input.column;
      const S* tap = weight + i * branch.row_stride + j * branch.column_stride;
      for (int64_t c = 0; c < task.group_inputs; ++c) {
        sum += widen(pixel[c * task.input.channel]) * widen(tap[c * branch.channel_stride]);
      }
    }
  }
  return sum;
}

// One thread owns one output; neighbouring threads own neighbours in memory, and of a depthwise
// convolution read such.
template <typename S>
__global__ void __launch_bounds__(kDirectThreads)
    convolve_outputs(const __grid_constant__ DirectTask<S> task) {
  int64_t at = int64_t{blockIdx.x} * kDirectThreads + threadIdx.x;
  if (at >= task.count) return;
  const auto take = [&](int64_t size) {  // the fastest index left
    const int64_t rest = at / size, index = at - rest * size;
    at = rest;
    return index;
  };
  Place place;
  int64_t output = task.planar ? 0 : take(task.total_outputs);
  place.x = take(task.out_width);
  place.y = take(task.out_height);
  if (task.planar) output = take(task.total_outputs);
  place.image = at;
  const Branches<S>& branches = task.branches;
  const int first = branches.concat ? branches.of_output(output) : 0;
  const int end = branches.concat ? first + 1 : branches.count;
  Arithmetic<S> sum = 0;
  for (int i = first; i < end; ++i) {
    const Branch<S>& branch = branches[i];
    const int64_t own = output - branch.first_output;
    sum += branch_sum(task, branch, place, own, own / branch.outputs * task.group_inputs);
  }
  task.finish.write(place, output, task.finish.value(branches, first, end, output, sum));
}

}  // namespace cuda
}  // namespace fastseg
