#pragma once

#include <cstdint>

#include "../../common/check.h"
#include "../permutohedral.h"
#include "permutohedral_cuda.h"

namespace fastseg {

// What the CPU's kernels refuse while they build, with the argument's plain name.
inline Error check_status(const cuda::LatticeStatus& status) {
  if (status.unusable != 0) {
    return value_error("features must be finite, got NaN or infinity in feature ",
                       kMaxFeatureDims + 1 - static_cast<int64_t>(status.unusable));
  }
  if (!(status.largest < 2147480000.0)) {
    return value_error(
        "features must stay within int32 lattice coordinates (about 2e9 / (D + 1) standard "
        "deviations), got a coordinate of ",
        status.largest, "; a larger standard deviation (sigma) makes them smaller");
  }
  if (status.vertices > INT32_MAX) {
    return value_error("features must touch fewer than 2^31 lattice vertices, got ",
                       status.vertices);
  }
  return {};
}

}  // namespace fastseg
