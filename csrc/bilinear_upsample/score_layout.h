#pragma once

#include <cstdint>

// What scores are and where their upsampled pixels lie, for the CPU and the CUDA kernels.
namespace fastseg {

enum class ScoreType { kFloat, kDouble, kHalf, kBFloat16 };

// float16 and bfloat16 are computed in float32.
inline int64_t bytes_of(ScoreType type) {
  return type == ScoreType::kDouble ? 8 : type == ScoreType::kFloat ? 4 : 2;
}

// Where output pixels lie among the source samples, along both axes, as torch's interpolate has
// it. `scale` of zero: the ratio of the sizes; else outputs are 1 / scale apart, whatever the
// sizes. With align_corners the scale is not used.
struct UpsampleGeometry {
  int64_t source_height, source_width;
  int64_t height, width;
  bool align_corners;
  double scale_height, scale_width;
};

// A (B, C, rows, columns) array, either all (rows, columns) planes one after the other, or with
// the channels innermost.
struct ScoreLayout {
  ScoreType type;
  int64_t batch, channels;
  bool channels_last;
};

enum class Reduction { kNone, kSum, kMean };

}  // namespace fastseg
