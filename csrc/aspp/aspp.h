#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../dilated_conv/cost_model.h"
#include "../dilated_conv/dilated_conv.h"

// Atrous spatial pyramid pooling: convolutions of one input at several rates, all with padding that
// keeps its size, summed or concatenated. Contract between the kernels and the doors.
//
// Letters as in dilated_conv.h; O is the output's, over all branches where they are concatenated.
namespace fastseg {

struct AsppBranch {
  int64_t out_channels, kernel_height, kernel_width;  // odd
  int64_t rate;
  ConvWeight weight;
  const void* bias;  // (out_channels,) or null
};

struct AsppCall {
  int64_t batch, channels, height, width;
  std::vector<AsppBranch> branches;
  bool concat;
  Activation activation;
  bool high_accuracy;
  ElementType type;
  Image<const void> input;  // (B, C, H, W)
  const float* packed;      // what AsppKernels::transform wrote, or null
  Image<void> output;       // (B, O, H, W), channels_last or NCHW

  int64_t out_channels() const {
    int64_t sum = 0;
    for (const AsppBranch& branch : branches) {
      sum = concat ? sum + branch.out_channels : branch.out_channels;
    }
    return sum;
  }
  ConvGeometry geometry(const AsppBranch& branch) const {
    const int64_t rows = branch.rate * (branch.kernel_height / 2);
    const int64_t columns = branch.rate * (branch.kernel_width / 2);
    return {batch,
            channels,
            height,
            width,
            branch.out_channels,
            branch.kernel_height,
            branch.kernel_width,
            {branch.rate, branch.rate},
            {rows, rows, columns, columns},
            {1, 1},
            1};
  }
  // Never torch's: all branches run in one call. That of one image, whatever the batch: packed
  // weights are made without knowing it.
  ConvAlgorithm algorithm(const AsppBranch& branch) const {
    if (type == ElementType::kDouble) return ConvAlgorithm::kDirect;
    ConvGeometry of_image = geometry(branch);
    of_image.batch = 1;
    return *choose_algorithm(of_image, {false, high_accuracy, true, true});
  }
};

// Distinct (rows, columns) at which some branch sees the input, ascending; that of all centres is
// one.
using TapOffsets = std::vector<std::pair<int64_t, int64_t>>;

inline TapOffsets tap_offsets(const AsppCall& call) {
  std::set<std::pair<int64_t, int64_t>> offsets;
  for (const AsppBranch& branch : call.branches) {
    for (int64_t i = 0; i < branch.kernel_height; ++i) {
      for (int64_t j = 0; j < branch.kernel_width; ++j) {
        const int64_t row = (i - branch.kernel_height / 2) * branch.rate;
        const int64_t column = (j - branch.kernel_width / 2) * branch.rate;
        if (std::abs(row) < call.height && std::abs(column) < call.width) {
          offsets.insert({row, column});
        }
      }
    }
  }
  return TapOffsets(offsets.begin(), offsets.end());
}

// Score heads, which have few outputs, are summed as one matrix product over the outputs of all
// taps: the input is read once. The products of all pixels are kept, at most twice the input.
inline bool is_merged_sum(const AsppCall& call) {
  if (call.concat || call.type == ElementType::kDouble) return false;
  const int64_t outputs = call.branches[0].out_channels;
  if (outputs > 64) return false;
  return static_cast<int64_t>(tap_offsets(call).size()) * outputs <= 2 * call.channels;
}

// Floats in the packed weights: for a merged sum a header, the number of taps, and panels
// [taps * O / 16][C][16]; or else those of the branches' convolutions, one after the other.
inline int64_t aspp_packed_size(const AsppCall& call) {
  if (is_merged_sum(call)) {
    const int64_t columns =
        static_cast<int64_t>(tap_offsets(call).size()) * call.branches[0].out_channels;
    return kPackedHeader + (columns + 15) / 16 * 16 * call.channels;
  }
  int64_t size = 0;
  for (const AsppBranch& branch : call.branches) {
    size += packed_layout(call.geometry(branch), call.algorithm(branch)).size;
  }
  return size;
}

inline void merged_header(const AsppCall& call, float* header) {
  std::fill(header, header + kPackedHeader, 0.0f);
  header[0] = 7907.0f;
  header[1] = static_cast<float>(call.channels & 0xffffff);
  header[2] = static_cast<float>(call.branches[0].out_channels);
  int64_t place = 0;
  for (const auto& offset : tap_offsets(call)) {
    place = (place * 8191 + offset.first * 127 + offset.second) & 0xfffff;
  }
  header[3] = static_cast<float>(place);
}

// What tells the packed weights of one pyramid from others.
inline std::string aspp_layout_text(const AsppCall& call) {
  if (is_merged_sum(call)) {
    PackedLayout layout = {aspp_packed_size(call), {}};
    merged_header(call, layout.header);
    return layout_text(layout);
  }
  std::string text;
  for (const AsppBranch& branch : call.branches) {
    text += layout_text(packed_layout(call.geometry(branch), call.algorithm(branch))) + ";";
  }
  return text;
}

// CPU entry points of one instruction set.
struct AsppKernels {
  void (*run)(const AsppCall& call, Parallel parallel);
  // packed (aspp_packed_size(call)), from the branches' weights.
  void (*transform)(const AsppCall& call, Parallel parallel, float* packed);
};

}  // namespace fastseg
