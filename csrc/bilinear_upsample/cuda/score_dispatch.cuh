#pragma once

#include "../../common/launch.cuh"
#include "../score_layout.h"

namespace fastseg {
namespace cuda {

// use(null pointer of the type that is stored).
template <typename Use>
void with_type(ScoreType type, Use&& use) {
  switch (type) {
    case ScoreType::kFloat:
      return use(static_cast<float*>(nullptr));
    case ScoreType::kDouble:
      return use(static_cast<double*>(nullptr));
    case ScoreType::kHalf:
      return use(static_cast<__half*>(nullptr));
    case ScoreType::kBFloat16:
      return use(static_cast<__nv_bfloat16*>(nullptr));
  }
}

// Blocks of `threads` for so many threads. No GPU's memory holds an array for which these would be
// 2^31.
inline unsigned blocks_for(int64_t count, int threads) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}

}  // namespace cuda
}  // namespace fastseg
