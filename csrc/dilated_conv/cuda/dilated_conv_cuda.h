#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "../../common/allocate.h"
#include "../dilated_conv.h"
#include "../gemm_plan.h"

// Convolutions on the GPU, alone or several of one input (aspp): contract between the launchers
// and the doors that lead to them. All pointers are to memory of the current device, all work is
// put on `stream`, nothing waits for it, and memory comes from `allocate` alone. Results are the
// same bits in every run of one plan. Letters as in ../dilated_conv.h.
namespace fastseg {
namespace cuda {

struct ConvBranch {
  int64_t out_channels, kernel[2], rate[2], padding[2];  // rows, columns; top, left
  const void* weight;                                    // (O, C / groups, KH, KW)
  int64_t weight_stride[4];                              // in elements
  const void* bias;                                      // (O,) or null
};

// What every branch shares. Several branches are summed, or concatenated along the channels.
struct ConvTask {
  ElementType type;  // of everything; arithmetic is float32, of float64 float64
  int64_t batch, channels, height, width, out_height, out_width;
  int64_t stride[2];  // rows, columns
  int64_t groups;     // 1 where there are several branches
  bool concat;
  Activation activation;
  Image<const void> input, residual;  // residual: null, or of the output's size
  Image<void> output;
  std::vector<ConvBranch> branches;

  int64_t pixels() const { return batch * out_height * out_width; }
};

// The output must not be empty; the plan is one that serves the task.
cudaError_t convolve(const ConvTask& task, const GemmPlan& plan, const Allocate& allocate,
                     cudaStream_t stream);

}  // namespace cuda
}  // namespace fastseg
