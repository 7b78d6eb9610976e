#pragma once

#include <cstddef>

// Shared memory: an array for each declaration and block, of exactly its size, which begins filled
// with ones (NaN, or -1): what a kernel reads there before it writes is conspicuous, and what it
// reads or writes beyond is an error under AddressSanitizer.
namespace simt {

constexpr int kPoison = 0xff;  // of each byte

// The running block's array of a declaration, which its address stands for. CUDA aligns to 16
// bytes at most; so does this.
void* shared_array(const void* declaration, size_t bytes);

// Ends the block: its arrays are gone.
void release_shared_arrays();

}  // namespace simt
