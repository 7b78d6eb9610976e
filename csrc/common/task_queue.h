#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace fastseg {

// The tasks of one parallel call: every thread that takes part drains it, and the caller rethrows
// what a task threw. Tasks are handed out one by one, so that a slow thread holds up only one.
class TaskQueue {
 public:
  TaskQueue(int64_t count, void (*body)(void* context, int64_t i), void* context)
      : count_(count), body_(body), context_(context) {}

  void drain() noexcept {
    try {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
        body_(context_, i);
      }
    } catch (...) {
      next_.store(count_, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  // To be called when all threads have returned from drain().
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  const int64_t count_;
  void (*const body_)(void*, int64_t);
  void* const context_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace fastseg
