#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"
#include "location.h"

// One block of CUDA threads, each a fiber. A thread runs until it ends or must wait, for the
// block's barrier or for the lanes of its warp; then the next one runs, in the chosen order.
//
// Headers that kernels include must leave the block's state to the functions here: what they read
// themselves is instrumented, and the sanitizer would judge the emulator.
namespace simt {

constexpr int kWarpSize = 32;

enum class Order { kForward, kReverse, kRandom };

// When cp.async is done: at its wait, at its issue, or each copy at one of them by chance.
enum class Copies { kWait, kIssue, kMixed };

// What a warp's collective does once all of its lanes have come: operands[i] is what lane i
// brought, null for lanes that take no part.
using Completion = void (*)(void* const operands[kWarpSize], uint32_t mask);

// A copy that was begun and not yet waited for (cp.async).
struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes, zero_bytes;  // of which the last are zeros and not read
  int group;
};

// Threads that came to a barrier, and those of them that came with a true predicate.
struct BarrierVote {
  int threads = 0, held = 0;
};

struct Thread {
  enum class State { kReady, kAtBarrier, kAtWarp, kDone };
  State state = State::kDone;
  Fiber* fiber = nullptr;
  uint3 index{};
  int number = 0;  // in the block
  Location waits_at{};
  const char* waits_for = "";
  BarrierVote vote;  // of the last barrier
  std::vector<AsyncCopy> copies;
  int open_group = 0;
};

class Block {
 public:
  // Runs all threads of the block `index` to their end. std::runtime_error for what CUDA leaves
  // undefined: it names the kernel, the block, and where its threads wait.
  void run(const char* kernel, const uint3& index, const dim3& size, size_t dynamic_bytes,
           const std::function<void()>& body);

  void set_order(Order order, unsigned seed);
  Order order() const { return order_; }
  void set_copies(Copies copies) { copies_ = copies; }
  bool copies_at_issue();  // whether the next one is made there
  std::mt19937& random() { return random_; }

  // Called by the running thread.
  Thread& current() { return *current_; }
  BarrierVote barrier(bool predicate, Location where);
  int lane() const;
  // Waits until all lanes in `mask` have come to the same place; `complete` then runs once.
  void meet(uint32_t mask, const char* name, void* operand, Completion complete, Location where);
  char* sync_order(uint32_t mask);  // what the next meeting of these lanes orders
  void* shared_array(const void* declaration, size_t bytes);
  void* dynamic_shared();
  [[noreturn]] void fail(const std::string& message);

 private:
  struct Meeting {
    uint32_t mask, arrived;
    const char* name;
    Location where;
    void* operands[kWarpSize];
    bool is(uint32_t other_mask, const char* other_name, const Location& other_where) const {
      return mask == other_mask && name == other_name && where == other_where;
    }
  };
  struct Warp {
    std::vector<Meeting> meetings;
    unsigned generation[kWarpSize] = {};  // meetings that were, by their lowest lane
  };

  static void thread_entry();
  void start(Thread& thread);
  void resume(Thread& thread);
  void run_threads();
  bool release_barrier();
  void check_meeting(uint32_t mask, const char* name, Location where);
  bool join_meeting(uint32_t mask, const char* name, void* operand, Completion complete,
                    Location where);
  std::string stuck() const;
  void clear();
  Fiber* take_fiber(int number);

  const char* kernel_ = "";
  uint3 index_{};
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> turns_;
  Thread* current_ = nullptr;
  int alive_ = 0;
  BarrierVote vote_;  // of the threads at the barrier
  unsigned barrier_generation_ = 0, blocks_ = 0;
  // For ThreadSanitizer, new for each block: a place for each barrier, and for each lane's
  // meetings. Two each, used in turn, since a fast thread comes to the next barrier before a slow
  // one has left this one.
  char* orders_ = nullptr;
  size_t dynamic_bytes_ = 0;
  std::string failure_;
  Order order_ = Order::kForward;
  Copies copies_ = Copies::kWait;
  std::mt19937 random_{1};

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_fibers_;
};

// The block that runs: there is one at a time.
Block& block();

}  // namespace simt
