#include <type_traits>

#include "../../dilated_conv/cpu/layout.h"
#include "merged_sum.h"

namespace fastseg {
namespace FASTSEG_ISA {

const DilatedConvKernels& dilated_conv_kernels();

namespace {

template <typename A>
constexpr ElementType kTypeOf =
    std::is_same_v<A, double> ? ElementType::kDouble : ElementType::kFloat;

template <typename T>
Image<const void> constant(const Image<T>& image) {
  return {image.data, image.batch, image.channel, image.row, image.column};
}

// The branches one by one, over images in the type of the arithmetic.
template <typename T>
class Branches {
  using A = Arithmetic<T>;

 public:
  Branches(const AsppCall& call, Parallel parallel) : call_(call), parallel_(parallel) {}

  void run() {
    const int64_t pixels = call_.height * call_.width;
    for (const AsppBranch& branch : call_.branches) outputs_ += branch.out_channels;
    if (!call_.concat) outputs_ = call_.branches[0].out_channels;
    prepare_input(pixels);
    Image<A> output = {nullptr, 0, 0, 0, 0};
    if constexpr (std::is_same_v<T, A>) {
      output = call_.output.as<A>();
    } else {
      output = by_pixels(&output_, outputs_);
    }
    if (call_.concat) {
      concatenate(output);
    } else {
      add_up(output);
    }
    if constexpr (!std::is_same_v<T, A>) {
      from_pixels<T>(output.data, call_.batch, outputs_, call_.height, call_.width, parallel_,
                     call_.output.as<T>());
    }
  }

 private:
  Image<A> by_pixels(Buffer<A>* buffer, int64_t channels) {
    const int64_t width = call_.width;
    buffer->reset(call_.batch * call_.height * width * channels);
    return {buffer->data(), call_.height * width * channels, 1, width * channels, channels};
  }

  // All branches but 1x1 ones read pixels: one copy for all of them.
  void prepare_input(int64_t pixels) {
    if constexpr (std::is_same_v<T, A>) {
      input_ = call_.input.as<const A>();
      if (input_.channel == 1) return;
    }
    copy_.reset(call_.batch * pixels * call_.channels);
    to_pixels<T>(call_.input.as<const T>(), call_.batch, call_.channels, call_.height, call_.width,
                 parallel_, copy_.data());
    input_ = {copy_.data(), pixels * call_.channels, 1, call_.width * call_.channels,
              call_.channels};
  }

  void concatenate(const Image<A>& output) {
    int64_t channel = 0;
    const float* packed = call_.packed;
    for (const AsppBranch& branch : call_.branches) {
      Image<A> slice = output;
      slice.data += channel * output.channel;
      run_branch(branch, &packed, {}, call_.activation, slice);
      channel += branch.out_channels;
    }
  }

  // Each branch adds the sum so far, as a residual: it lies in another buffer than the branch's
  // own.
  void add_up(const Image<A>& output) {
    Buffer<A> sums[2];
    Image<A> before = {nullptr, 0, 0, 0, 0};
    const float* packed = call_.packed;
    for (size_t i = 0; i < call_.branches.size(); ++i) {
      const bool last = i + 1 == call_.branches.size();
      const Image<A> sum = last ? output : by_pixels(&sums[i % 2], outputs_);
      run_branch(call_.branches[i], &packed, constant(before),
                 last ? call_.activation : Activation::kNone, sum);
      before = sum;
    }
  }

  void run_branch(const AsppBranch& branch, const float** packed, Image<const void> residual,
                  Activation activation, const Image<A>& output) {
    const ConvGeometry geometry = call_.geometry(branch);
    const ConvAlgorithm algorithm = call_.algorithm(branch);
    ConvWeight weight = branch.weight;
    Buffer<float> own;
    if (*packed) {
      weight.packed = *packed;
      *packed += packed_layout(geometry, algorithm).size;
    } else if (!std::is_same_v<T, A>) {
      own.reset(packed_layout(geometry, algorithm).size);
      dilated_conv_kernels().transform(geometry, algorithm, call_.type, weight, parallel_,
                                       own.data());
      weight.packed = own.data();
    }
    std::vector<A> bias;
    if (branch.bias) {
      const T* values = static_cast<const T*>(branch.bias);
      for (int64_t o = 0; o < branch.out_channels; ++o) {
        bias.push_back(static_cast<A>(values[o]));
      }
    }
    // A 1x1 branch of planar images is computed as they lie.
    const bool planar = std::is_same_v<T, A> && algorithm == ConvAlgorithm::kPointwise &&
                        residual.data == nullptr && output.channel != 1;
    dilated_conv_kernels().convolve(
        {geometry,
         algorithm,
         kTypeOf<A>,
         planar ? call_.input : constant(input_),
         weight,
         bias.empty() ? nullptr : bias.data(),
         residual,
         activation,
         {output.data, output.batch, output.channel, output.row, output.column}},
        parallel_);
  }

  const AsppCall& call_;
  const Parallel parallel_;
  int64_t outputs_ = 0;
  Image<const A> input_ = {nullptr, 0, 0, 0, 0};
  Buffer<A> copy_, output_;
};

template <typename T>
void run_type(const AsppCall& call, Parallel parallel) {
  if constexpr (!std::is_same_v<T, double>) {
    if (is_merged_sum(call)) {
      Buffer<float> own;
      const float* packed = call.packed;
      if (packed == nullptr) {
        own.reset(aspp_packed_size(call));
        pack_merged<T>(call, parallel, own.data() + kPackedHeader);
        packed = own.data();
      }
      return MergedSum(call, packed + kPackedHeader).template run<T>(parallel);
    }
  }
  Branches<T>(call, parallel).run();
}

void run(const AsppCall& call, Parallel parallel) {
  switch (call.type) {
    case ElementType::kFloat:
      return run_type<float>(call, parallel);
    case ElementType::kDouble:
      return run_type<double>(call, parallel);
    case ElementType::kHalf:
      return run_type<Half>(call, parallel);
    case ElementType::kBFloat16:
      return run_type<BFloat16>(call, parallel);
  }
}

void transform(const AsppCall& call, Parallel parallel, float* packed) {
  if (is_merged_sum(call)) {
    merged_header(call, packed);
    packed += kPackedHeader;
    if (call.type == ElementType::kFloat) pack_merged<float>(call, parallel, packed);
    if (call.type == ElementType::kHalf) pack_merged<Half>(call, parallel, packed);
    if (call.type == ElementType::kBFloat16) pack_merged<BFloat16>(call, parallel, packed);
    return;
  }
  for (const AsppBranch& branch : call.branches) {
    const ConvGeometry geometry = call.geometry(branch);
    const ConvAlgorithm algorithm = call.algorithm(branch);
    dilated_conv_kernels().transform(geometry, algorithm, call.type, branch.weight, parallel,
                                     packed);
    packed += packed_layout(geometry, algorithm).size;
  }
}

}  // namespace

const AsppKernels& aspp_kernels() {
  static const AsppKernels kernels = {run, transform};
  return kernels;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
