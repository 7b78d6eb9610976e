#pragma once

#include <cstring>

#include "block.h"

// cp.async, through the functions of <cuda_pipeline.h>. A copy happens when its thread waits for
// it, the latest that CUDA allows: a kernel that reads before it waits reads what was there before,
// which in shared memory is NaN.
namespace simt {

void begin_copy(const AsyncCopy& copy, Location where);
void end_group();
// Takes a copy that is not among the latest `open` groups from the list; false if none is left.
bool take_copy(size_t open, AsyncCopy* copy);

}  // namespace simt

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zero_bytes = 0,
                                    SIMT_CALLER) {
  simt::begin_copy({to, from, bytes, zero_bytes, 0}, where);
}

inline void __pipeline_commit() { simt::end_group(); }

// Waits for all but the latest `open` groups that were committed.
inline void __pipeline_wait_prior(size_t open) {
  for (simt::AsyncCopy copy; simt::take_copy(open, &copy);) {
    const size_t read = copy.bytes - copy.zero_bytes;
    std::memcpy(copy.to, copy.from, read);
    std::memset(static_cast<char*>(copy.to) + read, 0, copy.zero_bytes);
  }
}
