#pragma once

#include <cstring>

#include "block.h"
#include "shared_memory.h"

// cp.async, through the functions of <cuda_pipeline.h>. CUDA makes a copy at any time from its
// issue to the wait for it. The emulator makes it at the earliest or at the latest, as
// simt_set_copies() says: at the issue, where its array may still be read and its source still be
// written; or at the wait, and until then it leaves NaN there.
namespace simt {

// Notes a copy, and says whether it is made at once.
bool begin_copy(const AsyncCopy& copy, Location where);
void end_group();
// Takes a copy that is not among the latest `open` groups from the list; false if none is left.
bool take_copy(size_t open, AsyncCopy* copy);

// To the sanitizers the thread that calls these reads and writes: they see a memcpy as long as the
// compiler does not know its size.
[[gnu::noipa]] inline void make_copy(const AsyncCopy& copy) {
  const size_t read = copy.bytes - copy.zero_bytes;
  std::memcpy(copy.to, copy.from, read);
  std::memset(static_cast<char*>(copy.to) + read, 0, copy.zero_bytes);
}

[[gnu::noipa]] inline void poison(void* memory, size_t bytes) {
  std::memset(memory, kPoison, bytes);
}

}  // namespace simt

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zero_bytes = 0,
                                    SIMT_CALLER) {
  const simt::AsyncCopy copy = {to, from, bytes, zero_bytes, 0};
  if (simt::begin_copy(copy, where)) {
    simt::make_copy(copy);
  } else {
    simt::poison(to, bytes);
  }
}

inline void __pipeline_commit() { simt::end_group(); }

// Waits for all but the latest `open` groups that were committed.
inline void __pipeline_wait_prior(size_t open) {
  for (simt::AsyncCopy copy; simt::take_copy(open, &copy);) simt::make_copy(copy);
}
