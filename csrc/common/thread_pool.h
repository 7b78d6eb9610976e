#pragma once

#include "parallel.h"

// Threads for callers that bring none (the NumPy door; torch's operators use torch's threads).
namespace fastseg {

// Runs tasks on threads that wait for the next call. Any thread may use it: while one caller has
// the pool, others run their tasks alone. A child of fork() starts with a pool of its own.
Parallel pool_threads();

constexpr int kMaxThreads = 1024;

// Threads that a call may use, the caller's included. At first FASTSEG_NUM_THREADS, else
// OMP_NUM_THREADS, else the processors that the process may run on. std::invalid_argument where
// FASTSEG_NUM_THREADS is no number in [1, kMaxThreads].
int get_num_threads();

// `threads` in [1, kMaxThreads].
void set_num_threads(int threads);

}  // namespace fastseg
