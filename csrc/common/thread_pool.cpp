#include "thread_pool.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "crew.h"
#include "task_queue.h"

namespace fastseg {
namespace {

thread_local bool inside_task = false;

class ThreadPool {
 public:
  // False, with nothing run, while another caller has the pool.
  bool try_run(TaskQueue& tasks, int threads) {
    const std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) return false;
    start_workers(threads - 1);
    inside_task = true;
    crew_.run(tasks, threads - 1);
    inside_task = false;
    return true;
  }

 private:
  void start_workers(int count) {
    try {
      for (; workers_ < count; ++workers_) {
        std::thread([this, index = workers_, call = crew_.call()] {
          inside_task = true;
          crew_.serve(index, call);
        }).detach();
      }
    } catch (const std::system_error&) {
      // No more threads to be had: those there are, and the caller, do the work.
    }
  }

  std::mutex owner_;  // held by the caller whose tasks are run
  int workers_ = 0;   // guarded by owner_
  Crew crew_;
};

// Never destroyed: its threads wait in it until the process ends.
std::atomic<ThreadPool*> pool{nullptr};

// fork() copies neither the workers nor a consistent state of the locks.
void forget_pool_in_child() {
  pool.store(nullptr);
  inside_task = false;
}

const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);

ThreadPool& current_pool() {
  ThreadPool* current = pool.load(std::memory_order_acquire);
  if (current) return *current;
  auto* fresh = new ThreadPool;
  if (pool.compare_exchange_strong(current, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;  // another thread was first, and this one has no workers yet
  return *current;
}

// The number that `text` begins with, if a comma or nothing follows it; else 0.
long leading_number(const char* text) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return end != text && (*end == '\0' || *end == ',') ? value : 0;
}

int usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int default_threads() {
  if (const char* text = std::getenv("FASTSEG_NUM_THREADS"); text && *text) {
    const long value = leading_number(text);
    if (value >= 1 && value <= kMaxThreads) return static_cast<int>(value);
    throw std::invalid_argument("fastseg: FASTSEG_NUM_THREADS must be between 1 and " +
                                std::to_string(kMaxThreads) + ", got '" + text + "'");
  }
  const char* text = std::getenv("OMP_NUM_THREADS");
  const long value = text ? leading_number(text) : 0;
  if (value >= 1) return static_cast<int>(std::min<long>(value, kMaxThreads));
  return std::min(usable_processors(), kMaxThreads);
}

std::atomic<int> num_threads{0};  // 0: not decided yet

void run_on_pool(int64_t count, void (*body)(void*, int64_t), void* context) {
  const int threads = static_cast<int>(std::min<int64_t>(count, get_num_threads()));
  if (threads > 1 && !inside_task) {
    TaskQueue tasks(count, body, context);
    if (current_pool().try_run(tasks, threads)) return tasks.rethrow();
  }
  serial().run(count, body, context);
}

}  // namespace

Parallel pool_threads() { return {run_on_pool}; }

int get_num_threads() {
  int threads = num_threads.load(std::memory_order_relaxed);
  if (threads == 0) {
    threads = default_threads();
    num_threads.store(threads, std::memory_order_relaxed);
  }
  return threads;
}

void set_num_threads(int threads) { num_threads.store(threads, std::memory_order_relaxed); }

}  // namespace fastseg
