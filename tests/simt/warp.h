#pragma once

#include <cstdint>

#include "block.h"

// Shuffles, votes and reductions of a warp. A lane that reads from one that takes no part, which
// CUDA leaves undefined, is an error.
namespace simt {

// Replaces `value`, of at most 16 bytes, by that of lane `source`.
void shuffle(uint32_t mask, void* value, size_t bytes, int source, const char* name,
             Location where);
uint32_t ballot(uint32_t mask, bool predicate, const char* name, Location where);
uint32_t match_any(uint32_t mask, uint64_t value, Location where);

// The lane to read from: itself where `source` lies outside its part of the warp.
inline int source_in_part(int lane, int source, int width) {
  const int begin = lane & -width;
  return source < begin || source >= begin + width ? lane : source;
}

}  // namespace simt

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, SIMT_CALLER) {
  const int from = (simt::block().lane() & -width) + (source & (width - 1));
  simt::shuffle(mask, &value, sizeof(T), from, "__shfl_sync", where);
  return value;
}

template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
  const int lane = simt::block().lane(),
            from = simt::source_in_part(lane, lane - static_cast<int>(delta), width);
  simt::shuffle(mask, &value, sizeof(T), from, "__shfl_up_sync", where);
  return value;
}

template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_CALLER) {
  const int lane = simt::block().lane(),
            from = simt::source_in_part(lane, lane + static_cast<int>(delta), width);
  simt::shuffle(mask, &value, sizeof(T), from, "__shfl_down_sync", where);
  return value;
}

template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32, SIMT_CALLER) {
  const int lane = simt::block().lane(), from = simt::source_in_part(lane, lane ^ lanes, width);
  simt::shuffle(mask, &value, sizeof(T), from, "__shfl_xor_sync", where);
  return value;
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, SIMT_CALLER) {
  return simt::ballot(mask, predicate != 0, "__ballot_sync", where);
}

inline int __any_sync(uint32_t mask, int predicate, SIMT_CALLER) {
  return simt::ballot(mask, predicate != 0, "__any_sync", where) != 0;
}

inline int __all_sync(uint32_t mask, int predicate, SIMT_CALLER) {
  return simt::ballot(mask, predicate == 0, "__all_sync", where) == 0;
}

// Lanes whose value equals the caller's.
template <typename T>
uint32_t __match_any_sync(uint32_t mask, T value, SIMT_CALLER) {
  return simt::match_any(mask, static_cast<uint64_t>(value), where);
}
