#pragma once

#include <cstdint>

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

inline int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Blocks of `threads` for `count` threads, in as many grids as these take: launch(first, blocks)
// for each, of which `first` blocks were in the grids before. One, but for more than 2^31 blocks.
template <typename Launch>
void in_grids(int64_t count, int threads, Launch&& launch) {
  const int64_t blocks = ceil_div(count, threads), largest = FASTSEG_LARGEST_GRID;
  for (int64_t first = 0; first < blocks; first += largest) {
    launch(first, static_cast<unsigned>(blocks - first < largest ? blocks - first : largest));
  }
}

}  // namespace cuda
}  // namespace fastseg
