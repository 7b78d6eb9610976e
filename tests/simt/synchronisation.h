#pragma once

#include "block.h"

// __syncthreads and its kin, and __syncwarp.

inline void __syncthreads(SIMT_CALLER) { simt::block().barrier(true, where); }

inline int __syncthreads_and(int predicate, SIMT_CALLER) {
  const simt::BarrierVote vote = simt::block().barrier(predicate != 0, where);
  return vote.held == vote.threads;
}

inline int __syncthreads_or(int predicate, SIMT_CALLER) {
  return simt::block().barrier(predicate != 0, where).held != 0;
}

inline int __syncthreads_count(int predicate, SIMT_CALLER) {
  return simt::block().barrier(predicate != 0, where).held;
}

inline void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_CALLER) {
  char* order = simt::kThreadSanitizer ? simt::block().sync_order(mask) : nullptr;
  simt::release(order);
  simt::block().meet(mask, "__syncwarp", nullptr, nullptr, where);
  simt::acquire(order);
}

// Fences order what the threads that call them do: more than CUDA promises, in the order in which
// they happen to run.
void simt_fence();
inline void __threadfence() { simt_fence(); }
inline void __threadfence_block() { simt_fence(); }
