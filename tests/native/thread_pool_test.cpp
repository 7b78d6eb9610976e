// The thread pool of the NumPy door: each task runs once, whoever calls, and errors come back.

#include "../../csrc/common/thread_pool.h"

#include <atomic>
#include <cstdio>
#include <new>
#include <thread>
#include <vector>

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s\n", what);
}

bool runs_each_once(int64_t count) {
  std::vector<std::atomic<int>> runs(count);
  fastseg::pool_threads()(count, [&](int64_t i) { ++runs[i]; });
  for (const auto& n : runs) {
    if (n != 1) return false;
  }
  return true;
}

void test_counts() {
  for (const int threads : {1, 2, 7, 3}) {
    fastseg::set_num_threads(threads);
    for (int64_t count = 0; count < 200; ++count) {
      expect(runs_each_once(count), "each task runs once");
    }
  }
}

void test_callers_at_once() {
  fastseg::set_num_threads(3);
  std::atomic<bool> all{true};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) all = all & runs_each_once(17);
    });
  }
  for (std::thread& caller : callers) caller.join();
  expect(all, "each task runs once where four threads call");
}

void test_nested() {
  std::atomic<int> runs{0};
  fastseg::pool_threads()(5,
                          [&](int64_t) { fastseg::pool_threads()(7, [&](int64_t) { ++runs; }); });
  expect(runs == 35, "a task may call the pool");
}

void test_error(int threads) {
  fastseg::set_num_threads(threads);
  bool caught = false;
  try {
    fastseg::pool_threads()(100, [](int64_t i) {
      if (i == 40) throw std::bad_alloc();
    });
  } catch (const std::bad_alloc&) {
    caught = true;
  }
  expect(caught, "an exception of a task reaches the caller");
  expect(runs_each_once(50), "the pool works after an exception");
}

}  // namespace

int main() {
  test_counts();
  test_callers_at_once();
  test_nested();
  test_error(1);
  test_error(3);
  if (failures == 0) std::printf("thread pool: tested\n");
  return failures > 0;
}
