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

// `count` times so many blocks, in as many grids as they take, which is one up to 2^31 blocks:
// launch(first, blocks) for each, where `first` of `count` were in the grids before. No GPU's
// memory holds a plane, or what else the blocks of one share, that takes 2^31 of them by itself.
template <typename Launch>
void in_grids(int64_t count, unsigned blocks_of_one, Launch&& launch) {
  const int64_t most = FASTSEG_LARGEST_GRID / blocks_of_one;
  for (int64_t first = 0; first < count; first += most) {
    const int64_t now = count - first < most ? count - first : most;
    launch(first, static_cast<unsigned>(now * blocks_of_one));
  }
}

// The same of single blocks, of `threads` for `count` threads.
template <typename Launch>
void in_grids_of_threads(int64_t count, int threads, Launch&& launch) {
  in_grids(ceil_div(count, threads), 1, launch);
}

}  // namespace cuda
}  // namespace fastseg
