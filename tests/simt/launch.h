#pragma once

#include <driver_types.h>

#include <cstddef>
#include <functional>

#include "grid_index.h"

// Launches: all blocks of the grid, one after the other, on the calling thread, before the launch
// returns.
namespace simt {

struct Launch {
  const char* kernel;
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};

// std::runtime_error for a configuration that no GPU of compute capability 8.0 and later takes,
// and for what the kernel does wrong.
void launch(const Launch& launch, const std::function<void()>& body);

// The only stream that launches may name: what the doors of the emulated library are told is the
// caller's.
cudaStream_t callers_stream();

// Blocks of the largest grid that a launch may have.
unsigned largest_grid();

}  // namespace simt

// For who loads the library.
#pragma GCC visibility push(default)
extern "C" {
// "forward", "reverse" or "random": the order of threads and blocks. False for another name.
bool simt_set_order(const char* name, unsigned seed);
// "wait", "issue" or "mixed" (by the seed): when cp.async is done. False for another name.
bool simt_set_copies(const char* name);
// Launches so far.
long long simt_launch_count();
// The largest grid's blocks, 2^31 - 1 of a GPU: fewer, and a small launch takes several grids.
void simt_set_largest_grid(unsigned blocks);
// Whether the stream is under capture: it cannot be waited for then.
void simt_set_capturing(bool now);
// The error that the next cudaGetLastError() tells.
void simt_set_error(int error);
// What the driver (13000 supports CUDA 13.0) and the GPU say of themselves.
void simt_set_gpu(int driver, int major, int minor);
// Of the toolkit whose headers this is compiled with.
int simt_toolkit();
}
#pragma GCC visibility pop
