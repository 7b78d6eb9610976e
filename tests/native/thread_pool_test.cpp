// The thread pool of the NumPy door and the crews of torch's threads: each task runs once, whoever
// calls, and errors come back.

#include "../../csrc/common/thread_pool.h"

#include <atomic>
#include <cstdio>
#include <new>
#include <thread>
#include <vector>

#include "../../csrc/common/crew.h"
#include "../../csrc/common/task_queue.h"

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

// As behind the torch operators: helpers that come when they come, and late ones.
void test_crew() {
  fastseg::Crew crew;
  std::vector<std::thread> helpers;
  std::atomic<int64_t> runs{0};
  int64_t expected = 0;
  for (int64_t count = 0; count < 2000; ++count) {
    if (count % 500 == 100) {
      helpers.emplace_back(
          [&crew, index = static_cast<int>(helpers.size())] { crew.serve(index, 0); });
    }
    fastseg::TaskQueue tasks(
        count % 9, [](void* context, int64_t) { ++*static_cast<std::atomic<int64_t>*>(context); },
        &runs);
    crew.run(tasks, 3);
    expected += count % 9;
  }
  crew.dismiss();
  helpers.emplace_back([&crew] { crew.serve(4, 0); });
  for (std::thread& helper : helpers) helper.join();
  expect(runs == expected, "each task of a crew runs once");
}

}  // namespace

int main() {
  test_counts();
  test_callers_at_once();
  test_nested();
  test_error(1);
  test_error(3);
  test_crew();
  if (failures == 0) std::printf("thread pool: tested\n");
  return failures > 0;
}
