#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>

#include "../../csrc/common/instruction_set.h"

// What the kernel tests share.
namespace fastseg {

inline int failures = 0;

inline void expect(bool holds, const char* set, const char* what, double found = 0) {
  if (holds) return;
  ++failures;
  std::printf("FAILED %s: %s (found %g)\n", set, what, found);
}

// Tasks in reverse order on three threads: whatever depends on order or thread shows.
inline Parallel three_threads() {
  return {[](int64_t count, void (*body)(void*, int64_t), void* context) {
    std::atomic<int64_t> left{count};
    const auto work = [&] {
      for (int64_t i; (i = --left) >= 0;) body(context, i);
    };
    std::thread second(work), third(work);
    work();
    second.join();
    third.join();
  }};
}

// Numbers in [0, 1), the same on every machine.
class Random {
 public:
  double operator()() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<double>(state_ >> 11) / 9007199254740992.0;
  }

 private:
  uint64_t state_ = 42;
};

// Convolutions, pyramids and upsampling; the mean field and its lattices are in kernel_test.cpp.
void test_networks(const InstructionSet& set);

}  // namespace fastseg
