// Of arrays that no test can hold: the parts of kernels that name their last places.

#include <cstdint>
#include <cstdio>
#include <vector>

#include "../../csrc/bilinear_upsample/cuda/upsample_adjoint.cuh"
#include "../../csrc/bilinear_upsample/cuda/upsample_cross_entropy_kernels.cuh"

namespace fastseg {
namespace cuda {
namespace {

// Of two classes that float does not tell apart, one pixel's label is the second.
bool classes_beyond_the_exact_floats() {
  const int64_t classes = (int64_t{1} << 24) + 2, label = classes - 1;
  const std::vector<float> logits(classes);
  const Tap<float> tap = {0, 0, 1, 0};
  const PixelRecord<float> record = {0, 0.25f, 1, static_cast<int32_t>(label)};
  const AxisTables<float> tables = {&tap, &tap, nullptr, nullptr};
  const CrossEntropyGradient<float, float> gradient = {
      logits.data(), tables, &record, nullptr, nullptr, classes, 1, 1, 1, 1, false};
  const auto of_class = [&](int64_t c) {
    float values[1];
    gradient.at(gradient.source(c, 0), 0, 0, values);
    return values[0];
  };
  return of_class(label - 1) == 0.25f && of_class(label) == -0.75f;
}

struct Ones {
  float* total;
  int source(int64_t, int64_t) const { return 0; }
  template <int kPack>
  void at(int, int32_t, int32_t, float (&values)[kPack]) const {
    for (float& value : values) value = 1;
  }
  void write(float sum, int64_t, int64_t, int32_t, int32_t) const { *total = sum; }
};

// One sample, of which the last `kPixels` of the widest row are made.
bool columns_near_the_largest_int32() {
  constexpr int64_t kWidth = 2147483647 - 64, kPixels = 300;
  const std::vector<Tap<float>> last(kPixels, Tap<float>{0, 0, 1, 0});
  const Window row = {0, 1};
  const Window columns = {static_cast<uint32_t>(kWidth - kPixels), static_cast<uint32_t>(kWidth)};
  const AxisTables<float> tables = {last.data(), last.data() - (kWidth - kPixels), &row, &columns};
  const AdjointShape shape = {1, 1, 1, 1, 1, kWidth, 1, 1, 1, 1};
  float total = 0;
  FASTSEG_LAUNCH((upsample_adjoint<float, 1, 1, Ones>), 1, kAdjointThreads, 0,
                 simt::callers_stream(), Ones{&total}, tables, shape);
  return total == kPixels;
}

}  // namespace
}  // namespace cuda
}  // namespace fastseg

int main() {
  const auto tell = [](const char* what, bool right) {
    std::printf("%s: %s\n", what, right ? "right" : "wrong");
    return right;
  };
  const bool classes = tell("classes", fastseg::cuda::classes_beyond_the_exact_floats());
  const bool columns = tell("columns", fastseg::cuda::columns_near_the_largest_int32());
  return classes && columns ? 0 : 1;
}
