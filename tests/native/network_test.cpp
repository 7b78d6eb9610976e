// The kernels of networks against their definitions: every algorithm of the convolution, pyramids,
// and upsampling with what follows it.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernel_test.h"

namespace fastseg {
namespace {

constexpr double kBound = 3e-5;  // of the largest output

std::vector<float> numbers(int64_t count) {
  static Random random;
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(2 * random() - 1);
  return values;
}

template <typename T>
Image<T> view(T* data, int64_t channels, int64_t height, int64_t width, bool channels_last) {
  const int64_t image = channels * height * width;
  if (channels_last) return {data, image, 1, width * channels, channels};
  return {data, image, height * width, width, 1};
}

template <typename T>
auto& at(const Image<T>& image, int64_t b, int64_t c, int64_t y, int64_t x) {
  return image.data[b * image.batch + c * image.channel + y * image.row + x * image.column];
}

double activated(Activation activation, double value) {
  if (activation == Activation::kNone) return value;
  value = std::max(value, 0.0);
  return activation == Activation::kRelu6 ? std::min(value, 6.0) : value;
}

struct Convolution {
  const char* name;
  ConvGeometry geometry;
  std::vector<ConvAlgorithm> algorithms;
};

using A = ConvAlgorithm;
const Convolution kConvolutions[] = {
    {"any", {2, 5, 9, 8, 7, 3, 2, {2, 1}, {1, 2, 0, 1}, {2, 1}, 1}, {A::kDirect}},
    {"groups", {1, 24, 7, 9, 18, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, 3}, {A::kDirect}},
    {"depthwise", {1, 35, 9, 11, 35, 3, 3, {2, 2}, {2, 2, 2, 2}, {1, 1}, 35}, {A::kDirect}},
    {"strided depthwise", {2, 20, 9, 8, 20, 3, 3, {1, 1}, {1, 1, 1, 1}, {2, 2}, 20}, {A::kDirect}},
    {"3x3",
     {2, 20, 13, 11, 37, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
     {A::kDirect, A::kWinograd, A::kWinogradHigh}},
    {"3x3 of rate 4",
     {1, 16, 11, 14, 40, 3, 3, {4, 4}, {4, 4, 4, 4}, {1, 1}, 1},
     {A::kDirect, A::kWinograd, A::kWinogradHigh}},
    {"3x3 beyond the image",
     {1, 17, 5, 6, 16, 3, 3, {6, 6}, {6, 6, 6, 6}, {1, 1}, 1},
     {A::kDirect, A::kWinograd, A::kWinogradHigh}},
    {"1x1",
     {2, 66, 7, 9, 75, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
     {A::kDirect, A::kPointwise, A::kStrassen}},
    {"strided 1x1",
     {1, 34, 9, 8, 33, 1, 1, {1, 1}, {0, 0, 0, 0}, {2, 2}, 1},
     {A::kDirect, A::kPointwise, A::kStrassen}},
    {"deep 1x1",
     {1, 1026, 4, 3, 40, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
     {A::kPointwise, A::kStrassen}},
};

// What a convolution is given. Its output has NaN where nothing was written.
struct Data {
  std::vector<float> input, weight, bias, residual;

  explicit Data(const ConvGeometry& g)
      : input(numbers(g.batch * g.in_channels * g.height * g.width)),
        weight(numbers(g.out_channels * g.group_inputs() * g.taps())),
        bias(numbers(g.out_channels)),
        residual(numbers(g.batch * g.out_channels * g.out_height() * g.out_width())) {}
};

double exact(const ConvGeometry& g, const Image<const float>& input, const float* weight, int64_t b,
             int64_t o, int64_t y, int64_t x) {
  double sum = 0;
  const int64_t first = o / g.group_outputs() * g.group_inputs();
  for (int64_t c = 0; c < g.group_inputs(); ++c) {
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      const int64_t row = y * g.stride[0] - g.padding[0] + tap / g.kernel_width * g.rate[0];
      const int64_t column = x * g.stride[1] - g.padding[2] + tap % g.kernel_width * g.rate[1];
      if (row < 0 || row >= g.height || column < 0 || column >= g.width) continue;
      sum += static_cast<double>(weight[(o * g.group_inputs() + c) * g.taps() + tap]) *
             at(input, b, first + c, row, column);
    }
  }
  return sum;
}

std::vector<float> convolve(const InstructionSet& set, const ConvGeometry& g, A algorithm,
                            const Data& data, bool channels_last, Activation activation,
                            const float* packed, Parallel parallel) {
  const int64_t height = g.out_height(), width = g.out_width(), taps = g.taps();
  std::vector<float> output(data.residual.size(), std::numeric_limits<float>::quiet_NaN());
  const auto in = view(data.input.data(), g.in_channels, g.height, g.width, channels_last);
  const auto other = view(data.residual.data(), g.out_channels, height, width, channels_last);
  const auto out = view(output.data(), g.out_channels, height, width, channels_last);
  const ConvWeight weight = {
      data.weight.data(), {g.group_inputs() * taps, taps, g.kernel_width, 1}, packed};
  set.dilated_conv.convolve({g, algorithm, ElementType::kFloat, in.as<const void>(), weight,
                             data.bias.data(), other.as<const void>(), activation, out.as<void>()},
                            parallel);
  return output;
}

void test_convolution(const InstructionSet& set, const Convolution& convolution) {
  const ConvGeometry& g = convolution.geometry;
  const int64_t taps = g.taps();
  const Data data(g);
  const ConvWeight weight = {
      data.weight.data(), {g.group_inputs() * taps, taps, g.kernel_width, 1}, nullptr};
  int turn = 0;
  for (A algorithm : convolution.algorithms) {
    std::vector<float> packed(packed_layout(g, algorithm).size);
    set.dilated_conv.transform(g, algorithm, ElementType::kFloat, weight, three_threads(),
                               packed.data());
    for (bool channels_last : {false, true}) {
      const auto activation = static_cast<Activation>(turn++ % 3);
      const auto run = [&](const float* form, Parallel parallel) {
        return convolve(set, g, algorithm, data, channels_last, activation, form, parallel);
      };
      const std::vector<float> output = run(packed.data(), serial());
      expect(run(packed.data(), three_threads()) == output && run(nullptr, serial()) == output,
             set.name, convolution.name);
      const int64_t height = g.out_height(), width = g.out_width();
      const auto in = view(data.input.data(), g.in_channels, g.height, g.width, channels_last);
      const auto other = view(data.residual.data(), g.out_channels, height, width, channels_last);
      const auto out = view(output.data(), g.out_channels, height, width, channels_last);
      double most = 0, largest = 1;
      for (int64_t i = 0; i < g.batch * g.out_channels * height * width; ++i) {
        const int64_t x = i % width, y = i / width % height;
        const int64_t o = i / width / height % g.out_channels;
        const int64_t b = i / width / height / g.out_channels;
        const double sum =
            exact(g, in, data.weight.data(), b, o, y, x) + data.bias[o] + at(other, b, o, y, x);
        const double difference = std::fabs(activated(activation, sum) - at(out, b, o, y, x));
        most = difference <= most ? most : difference;  // NaN is the most
        largest = std::max(largest, std::fabs(sum));
      }
      expect(most <= kBound * largest, set.name, convolution.name, most / largest);
    }
  }
}

// Two rates and the centre, with 5 outputs each (a merged sum) or 40 (a convolution a branch).
void test_pyramid(const InstructionSet& set, int64_t outputs, bool concat) {
  AsppCall call = {1, 40, 9, 7, {}, concat, Activation::kRelu, false, ElementType::kFloat};
  std::vector<std::vector<float>> weights, biases;
  for (int64_t rate : {1, 2, 5}) {
    const int64_t kernel = rate == 1 ? 1 : 3, taps = kernel * kernel;
    weights.push_back(numbers(outputs * call.channels * taps));
    biases.push_back(numbers(outputs));
    call.branches.push_back(
        {outputs, kernel, kernel, rate, {nullptr, {call.channels * taps, taps, kernel, 1}}});
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    call.branches[i].weight.data = weights[i].data();
    call.branches[i].bias = biases[i].data();
  }
  const std::vector<float> input = numbers(call.channels * call.height * call.width);
  std::vector<float> packed(aspp_packed_size(call));
  set.aspp.transform(call, three_threads(), packed.data());
  call.packed = packed.data();
  for (bool channels_last : {false, true}) {
    const auto in = view(input.data(), call.channels, call.height, call.width, channels_last);
    call.input = in.as<const void>();
    std::vector<float> output[2];
    for (int threads = 0; threads < 2; ++threads) {
      output[threads].resize(call.out_channels() * call.height * call.width);
      call.output =
          view(output[threads].data(), call.out_channels(), call.height, call.width, channels_last)
              .as<void>();
      set.aspp.run(call, threads ? three_threads() : serial());
    }
    expect(output[0] == output[1], set.name, "pyramid has equal bits for one and three threads");
    const auto out =
        view(output[0].data(), call.out_channels(), call.height, call.width, channels_last);
    double most = 0, largest = 1;
    for (int64_t o = 0; o < call.out_channels(); ++o) {
      for (int64_t y = 0; y < call.height; ++y) {
        for (int64_t x = 0; x < call.width; ++x) {
          double sum = 0;
          for (size_t i = 0; i < weights.size(); ++i) {
            if (concat && o / outputs != static_cast<int64_t>(i)) continue;
            sum += exact(call.geometry(call.branches[i]), in, weights[i].data(), 0, o % outputs, y,
                         x) +
                   biases[i][o % outputs];
          }
          const double difference = std::fabs(std::max(sum, 0.0) - at(out, 0, o, y, x));
          most = difference <= most ? most : difference;
          largest = std::max(largest, std::fabs(sum));
        }
      }
    }
    expect(most <= kBound * largest, set.name, "pyramid", most / largest);
  }
}

// Of one axis: the two samples around an output, and the weight of the second (torch's rule).
struct Between {
  int64_t low, high;
  double weight;

  Between(int64_t i, int64_t from, int64_t to, bool align_corners) {
    const double step = static_cast<double>(align_corners ? from - 1 : from) /
                        static_cast<double>(align_corners ? to - 1 : to);
    const double place = std::max(align_corners ? i * step : (i + 0.5) * step - 0.5, 0.0);
    low = static_cast<int64_t>(place);
    high = std::min(low + 1, from - 1);
    weight = place - static_cast<double>(low);
  }
};

void test_upsampling(const InstructionSet& set, int64_t channels, bool channels_last,
                     bool align_corners) {
  const UpsampleGeometry g = {5, 6, 33, 47, align_corners, 0, 0};
  const ScoreLayout layout = {ScoreType::kFloat, 2, channels, channels_last};
  const int64_t pixels = g.height * g.width, images = layout.batch;
  std::vector<float> scores = numbers(images * channels * g.source_height * g.source_width);
  for (float& score : scores) score *= 4;
  const auto in = view(scores.data(), channels, g.source_height, g.source_width, channels_last);
  const auto& kernels = set.bilinear_upsample;
  std::vector<float> output(images * channels * pixels), probs(output.size());
  std::vector<uint8_t> labels(images * pixels), labels_again(labels.size());
  kernels.upsample(scores.data(), layout, g, three_threads(), output.data());
  kernels.softmax(scores.data(), layout, g, three_threads(), probs.data());
  kernels.argmax(scores.data(), layout, g, true, serial(), labels.data());
  kernels.argmax(scores.data(), layout, g, true, three_threads(), labels_again.data());
  expect(labels == labels_again, set.name, "labels are equal for one and three threads");
  const auto out = view(output.data(), channels, g.height, g.width, channels_last);
  const auto of_class = view(probs.data(), channels, g.height, g.width, channels_last);
  double most = 0, most_of_probs = 0, most_below = 0, total = 0;
  for (int64_t p = 0; p < images * pixels; ++p) {
    const int64_t b = p / pixels, y = p / g.width % g.height, x = p % g.width;
    const Between row(y, g.source_height, g.height, align_corners);
    const Between column(x, g.source_width, g.width, align_corners);
    std::vector<double> exact;
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const auto across = [&](int64_t line) {
        return at(in, b, c, line, column.low) * (1 - column.weight) +
               at(in, b, c, line, column.high) * column.weight;
      };
      exact.push_back(across(row.low) * (1 - row.weight) + across(row.high) * row.weight);
      most = std::max(most, std::fabs(exact[c] - at(out, b, c, y, x)));
      sum += std::exp(exact[c]);
    }
    for (int64_t c = 0; c < channels; ++c) {
      most_of_probs =
          std::max(most_of_probs, std::fabs(std::exp(exact[c]) / sum - at(of_class, b, c, y, x)));
    }
    const double largest = *std::max_element(exact.begin(), exact.end());
    most_below = std::max(most_below, largest - exact[labels[p]]);
    total += std::log(sum) - exact[labels[p]];
  }
  expect(most < 1e-5, set.name, "upsampled scores", most);
  expect(most_of_probs < 1e-5, set.name, "upsampled probabilities", most_of_probs);
  expect(most_below < 1e-5, set.name, "labels of upsampled scores", most_below);

  // The transpose: <U a, b> = <a, U^T b>.
  const std::vector<float> other = numbers(static_cast<int64_t>(output.size()));
  std::vector<float> back(scores.size());
  kernels.upsample_backward(other.data(), layout, g, three_threads(), back.data());
  double above = 0, below = 0;
  for (size_t i = 0; i < output.size(); ++i) above += static_cast<double>(output[i]) * other[i];
  for (size_t i = 0; i < scores.size(); ++i) below += static_cast<double>(scores[i]) * back[i];
  expect(std::fabs(above - below) < 1e-4 * std::fabs(above) + 1e-3, set.name,
         "gradient of upsampled scores", above - below);

  CrossEntropyTask task = {};
  task.logits = scores.data();
  task.labels = labels.data();
  task.byte_labels = true;
  task.ignore_index = -1;
  task.reduction = Reduction::kMean;
  task.grad_scalar = 1;
  task.grad = back.data();
  const CrossEntropySums sums = kernels.cross_entropy(task, layout, g, three_threads());
  expect(sums.wrong == -1 && sums.counted == images * pixels &&
             std::fabs(sums.loss - total) < 1e-5 * total + 1e-4,
         set.name, "cross-entropy of upsampled scores", sums.loss - total);
  // Probabilities and labels both add up to one, and so the gradient to zero.
  double sum = 0, size = 0;
  for (float value : back) {
    sum += value;
    size += std::fabs(value);
  }
  expect(size > 0 && std::fabs(sum) < 1e-5 * size, set.name, "gradient of the cross-entropy", sum);
}

}  // namespace

void test_networks(const InstructionSet& set) {
  for (const Convolution& convolution : kConvolutions) test_convolution(set, convolution);
  for (bool concat : {false, true}) {
    for (int64_t outputs : {5, 40}) test_pyramid(set, outputs, concat);
  }
  for (bool channels_last : {false, true}) {
    for (int64_t channels : {3, 21}) {
      test_upsampling(set, channels, channels_last, channels == 21);
    }
  }
}

}  // namespace fastseg
