#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "task_queue.h"

namespace fastseg {

// Threads that help one leader with its parallel calls, wherever the threads come from.
//
// The leader never waits for a helper that has not begun: it takes tasks itself, and one that
// wakes late finds none. So a processor that is busy with something else costs its share of the
// work and no more, where a barrier for all threads in each call would wait for it each time.
class Crew {
 public:
  // The leader's call. Helpers of an index below `helpers` may join.
  void run(TaskQueue& tasks, int helpers) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_ = &tasks;
      helpers_ = helpers;
      call_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    tasks.drain();
    close();
  }

  // Number of calls so far: a helper that serves from `call` on joins the next one.
  uint64_t call() const { return call_.load(std::memory_order_acquire); }

  // A helper's whole life: joins calls until the crew is dismissed.
  void serve(int index, uint64_t seen) {
    const auto called = [&] { return call_.load(std::memory_order_acquire) != seen; };
    for (bool spin = true;;) {
      if (spin) spin_until(called);
      TaskQueue* tasks = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
        if (dismissed_) return;
        seen = call_.load(std::memory_order_relaxed);
        if (index < helpers_) tasks = tasks_;
        if (tasks) joined_.fetch_add(1, std::memory_order_relaxed);
      }
      spin = tasks != nullptr;
      if (!tasks) continue;
      tasks->drain();
      // From here on the leader may return: `tasks` is not touched again.
      if (joined_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard<std::mutex> lock(mutex_);
        left_.notify_one();
      }
    }
  }

  // No more calls: serve() returns on every helper.
  void dismiss() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      dismissed_ = true;
      call_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

 private:
  // The passes of an inference follow each other within microseconds: waking a sleeping thread
  // for each would cost more than this much spinning.
  static constexpr std::chrono::microseconds kSpin{50};

  template <typename Condition>
  static bool spin_until(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 32; ++i) {
        if (condition()) return true;
        pause();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    return false;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // A helper that wakes only now finds no tasks; those that joined are waited for.
  void close() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_ = nullptr;
    }
    const auto all_left = [this] { return joined_.load(std::memory_order_acquire) == 0; };
    if (spin_until(all_left)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    left_.wait(lock, all_left);
  }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::atomic<uint64_t> call_{0};
  std::atomic<int> joined_{0};
  TaskQueue* tasks_ = nullptr;  // guarded by mutex_, as are the next two
  int helpers_ = 0;
  bool dismissed_ = false;
};

}  // namespace fastseg
