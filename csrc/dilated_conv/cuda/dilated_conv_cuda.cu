#include <algorithm>
#include <type_traits>

#include "dilated_conv_cuda.h"
#include "direct_kernel.cuh"
#include "gemm_launch.cuh"
#include "pack_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// No GPU's memory holds an array for which these would be 2^31.
unsigned blocks_for(int64_t count, int64_t of_block) {
  return static_cast<unsigned>(ceiling(count, of_block));
}

// One convolution: its launches, and the memory that they share.
template <typename S>
class Convolution {
 public:
  Convolution(const ConvTask& task, const GemmPlan& plan, const Allocate& allocate,
              cudaStream_t stream)
      : task_(task), plan_(plan), allocate_(allocate), stream_(stream) {
    for (const ConvBranch& branch : task.branches) add(branch);
  }

  void run() {
    if constexpr (!std::is_same_v<S, double>) {
      if (!plan_.direct) return run_tiles();
    }
    run_direct();
  }

 private:
  static constexpr int kNumbers = 16 / sizeof(S);  // of a vector

  void add(const ConvBranch& branch) {
    const int64_t first = task_.concat ? outputs_ : 0;
    const auto& stride = branch.weight_stride;
    branches_.push_back({static_cast<const S*>(branch.weight), stride[0], stride[1], stride[2],
                         stride[3], static_cast<const S*>(branch.bias), branch.kernel[0],
                         branch.kernel[1], branch.rate[0], branch.rate[1], branch.padding[0],
                         branch.padding[1], branch.out_channels / task_.groups, first, tiles_});
    outputs_ = first + branch.out_channels;
    if (plan_.direct) return;
    tiles_ += static_cast<int>(ceiling(branches_.back().outputs, kGemmTiles[plan_.tile].outputs));
  }

  bool planar() const { return task_.output.channel != 1; }

  Finish<S> finish() const {
    return {task_.output.as<S>(), task_.residual.as<const S>(), task_.activation};
  }

  Branches<S> branches() {
    Branches<S> all = {};
    all.count = static_cast<int>(branches_.size());
    all.concat = task_.concat;
    if (all.count <= kArgumentBranches) {
      std::copy(branches_.begin(), branches_.end(), all.own);
      return all;
    }
    auto* table = static_cast<Branch<S>*>(allocate_(all.count * int64_t{sizeof(Branch<S>)}));
    for (int first = 0; first < all.count; first += kArgumentBranches) {
      Branches<S> some = {};
      some.count = std::min(kArgumentBranches, all.count - first);
      std::copy_n(branches_.begin() + first, some.count, some.own);
      FASTSEG_LAUNCH(store_branches<S>, 1, kArgumentBranches, 0, stream_, some, first, table);
    }
    all.table = table;
    return all;
  }

  void run_direct() {
    const DirectTask<S> direct = {task_.input.as<const S>(),
                                  branches(),
                                  finish(),
                                  task_.height,
                                  task_.width,
                                  task_.out_height,
                                  task_.out_width,
                                  task_.stride[0],
                                  task_.stride[1],
                                  task_.channels / task_.groups,
                                  task_.groups,
                                  outputs_,
                                  task_.pixels() * outputs_,
                                  planar()};
    FASTSEG_LAUNCH(convolve_outputs<S>, blocks_for(direct.count, kDirectThreads), kDirectThreads, 0,
                   stream_, direct);
  }

  // Whether vectors of channels can be copied from where they are.
  static bool aligned(const void* data, int64_t a, int64_t b, int64_t c) {
    const bool places = a % kNumbers == 0 && b % kNumbers == 0 && c % kNumbers == 0;
    return places && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }

  void place_input(GemmTask<S>* gemm) {
    const int64_t inputs = task_.channels / task_.groups;
    const int64_t padded = ceiling(inputs, kNumbers) * kNumbers;
    const Image<const S> image = task_.input.as<const S>();
    Source& source = gemm->source;
    source.height = static_cast<int>(task_.height);
    source.width = static_cast<int>(task_.width);
    source.stride_y = static_cast<int>(task_.stride[0]);
    source.stride_x = static_cast<int>(task_.stride[1]);
    source.vectors = static_cast<int>(padded / kNumbers);
    source.group_stride = padded;
    if (inputs == padded && (image.channel == 1 || task_.channels == 1) &&
        aligned(image.data, image.batch, image.row, image.column)) {
      gemm->input = image.data;
      source.batch_stride = image.batch;
      source.row = image.row;
      source.column = image.column;
      return;
    }
    const int64_t channels = task_.groups * padded, of_image = task_.height * task_.width;
    const int64_t pixels = task_.batch * of_image;
    auto* packed = static_cast<S*>(allocate_(pixels * channels * int64_t{sizeof(S)}));
    const unsigned tiles = blocks_for(channels, kPackChannels);
    FASTSEG_LAUNCH(pack_input<S>, tiles * blocks_for(pixels, kPackPixels), kPackThreads, 0, stream_,
                   image, task_.width, of_image, inputs, padded, channels, pixels, tiles, packed);
    gemm->input = packed;
    source.batch_stride = of_image * channels;
    source.row = task_.width * channels;
    source.column = channels;
  }

  void place_weight(Branch<S>* branch) {
    const int64_t inputs = task_.channels / task_.groups;
    const int64_t padded = ceiling(inputs, kNumbers) * kNumbers;
    const int64_t outputs = branch->outputs * task_.groups;
    if (inputs == padded && branch->channel_stride == 1 &&
        aligned(branch->weight, branch->output_stride, branch->row_stride, branch->column_stride)) {
      return;
    }
    const int64_t taps = branch->kernel_height * branch->kernel_width;
    auto* packed = static_cast<S*>(allocate_(taps * outputs * padded * int64_t{sizeof(S)}));
    FASTSEG_LAUNCH(pack_weight<S>, blocks_for(outputs * padded, kPackThreads), kPackThreads, 0,
                   stream_, *branch, outputs, inputs, padded, packed);
    branch->weight = packed;
    branch->output_stride = padded;
    branch->channel_stride = 1;
    branch->column_stride = outputs * padded;
    branch->row_stride = branch->kernel_width * outputs * padded;
  }

  template <typename I>
  bool packs(const I& image) const {
    return image.channel == 1 && aligned(image.data, image.batch, image.row, image.column);
  }

  void run_tiles() {
    GemmTask<S> gemm = {};
    place_input(&gemm);
    gemm.packs = packs(task_.output) && (!task_.residual.data || packs(task_.residual));
    for (Branch<S>& branch : branches_) {
      place_weight(&branch);
      gemm.packs &= branch.outputs % kNumbers == 0;
    }
    gemm.order = pixel_order(task_.out_height, task_.out_width);
    gemm.branches = branches();
    gemm.finish = finish();
    gemm.pixels = task_.pixels();
    gemm.total_outputs = outputs_;
    const int64_t of_group = ceiling(branches_[0].outputs, kGemmTiles[plan_.tile].outputs);
    gemm.group_tiles = static_cast<unsigned>(of_group);
    gemm.output_tiles =
        static_cast<unsigned>(task_.concat ? int64_t{tiles_} : of_group * task_.groups);
    gemm.splits = plan_.splits;
    gemm.planar = planar();
    const int64_t sums = gemm.pixels * outputs_;
    if (plan_.splits > 1) {
      gemm.partial = static_cast<float*>(allocate_(plan_.splits * sums * int64_t{sizeof(float)}));
    }
    launch_tiles(gemm, plan_.tile, plan_.tf32, stream_);
    if (plan_.splits == 1) return;
    FASTSEG_LAUNCH(add_splits<S>, blocks_for(sums, kFinishThreads), kFinishThreads, 0, stream_,
                   gemm);
  }

  const ConvTask& task_;
  const GemmPlan& plan_;
  const Allocate& allocate_;
  cudaStream_t stream_;
  std::vector<Branch<S>> branches_;
  int64_t outputs_ = 0;
  int tiles_ = 0;  // of outputs, over branches that are concatenated
};

}  // namespace

cudaError_t convolve(const ConvTask& task, const GemmPlan& plan, const Allocate& allocate,
                     cudaStream_t stream) {
  switch (task.type) {
    case ElementType::kDouble:
      Convolution<double>(task, plan, allocate, stream).run();
      break;
    case ElementType::kFloat:
      Convolution<float>(task, plan, allocate, stream).run();
      break;
    case ElementType::kHalf:
      Convolution<__half>(task, plan, allocate, stream).run();
      break;
    case ElementType::kBFloat16:
      Convolution<__nv_bfloat16>(task, plan, allocate, stream).run();
      break;
  }
  return cudaGetLastError();
}

}  // namespace cuda
}  // namespace fastseg
