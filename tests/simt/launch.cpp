#include "launch.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "block.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {

extern char launch_order, end_order;

namespace {

std::mutex one_at_a_time;
long long launches = 0;

// CUDA C++ Programming Guide, "Compute Capabilities", 8.0 to 12.0.
constexpr unsigned kLargestBlock = 1024, kLargestBlockZ = 64, kLargestGridYZ = 65535;
unsigned largest_grid_x = 2147483647;  // a test may make it smaller
constexpr size_t kSharedWithoutAsking = 48 * 1024;

void refuse(const Launch& launch, const std::string& why) {
  std::ostringstream text;
  text << "simt: " << launch.kernel << "<<<(" << launch.grid.x << ", " << launch.grid.y << ", "
       << launch.grid.z << "), (" << launch.block.x << ", " << launch.block.y << ", "
       << launch.block.z << "), " << launch.shared_bytes << ">>>: " << why;
  throw std::runtime_error(text.str());
}

void check(const Launch& launch) {
  const dim3 &g = launch.grid, &b = launch.block;
  if (!g.x || !g.y || !g.z || g.x > largest_grid_x || g.y > kLargestGridYZ ||
      g.z > kLargestGridYZ) {
    refuse(launch, "the grid's size is none that CUDA takes");
  }
  const size_t threads = size_t{b.x} * b.y * b.z;
  if (threads == 0 || threads > kLargestBlock || b.z > kLargestBlockZ) {
    refuse(launch, "the block's size is none that CUDA takes");
  }
  if (launch.shared_bytes > kSharedWithoutAsking) {
    refuse(launch, "more dynamic shared memory than every GPU has");
  }
  if (launch.stream != callers_stream()) refuse(launch, "the stream is not the caller's");
}

int place_of(const std::string& name, const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? -1 : static_cast<int>(found - names.begin());
}

}  // namespace

unsigned largest_grid() { return largest_grid_x; }

cudaStream_t callers_stream() { return reinterpret_cast<cudaStream_t>(&one_at_a_time); }

void launch(const Launch& launch, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  check(launch);
  ++launches;
  gridDim = launch.grid;
  blockDim = launch.block;
  const uint64_t count = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  std::vector<uint64_t> turns;
  if (block().order() == Order::kRandom) {
    turns.resize(count);
    std::iota(turns.begin(), turns.end(), 0);
    std::shuffle(turns.begin(), turns.end(), block().random());
  }
  release(&launch_order);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t number = block().order() == Order::kForward   ? i
                            : block().order() == Order::kReverse ? count - 1 - i
                                                                 : turns[i];
    blockIdx = {static_cast<unsigned>(number % gridDim.x),
                static_cast<unsigned>(number / gridDim.x % gridDim.y),
                static_cast<unsigned>(number / gridDim.x / gridDim.y)};
    try {
      block().run(launch.kernel, blockIdx, blockDim, launch.shared_bytes, body);
    } catch (const std::runtime_error& error) {
      acquire(&end_order);
      throw std::runtime_error("simt: " + std::string(error.what()));
    }
  }
  acquire(&end_order);
}

}  // namespace simt

bool simt_set_order(const char* name, unsigned seed) {
  const int found = simt::place_of(name, {"forward", "reverse", "random"});
  if (found >= 0) simt::block().set_order(static_cast<simt::Order>(found), seed);
  return found >= 0;
}

bool simt_set_copies(const char* name) {
  const int found = simt::place_of(name, {"wait", "issue", "mixed"});
  if (found >= 0) simt::block().set_copies(static_cast<simt::Copies>(found));
  return found >= 0;
}

void simt_set_largest_grid(unsigned blocks) { simt::largest_grid_x = blocks; }

long long simt_launch_count() { return simt::launches; }
