#include "block.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "grid_index.h"
#include "shared_memory.h"

namespace simt {
namespace {

uint32_t lane_bit(int lane) { return uint32_t{1} << lane; }

}  // namespace

char launch_order, end_order;

Block& block() {
  static Block only;
  return only;
}

void Block::set_order(Order order, unsigned seed) {
  order_ = order;
  random_.seed(seed);
}

bool Block::copies_at_issue() {
  return copies_ == Copies::kMixed ? random_() % 2 == 0 : copies_ == Copies::kIssue;
}

// Under ThreadSanitizer a fiber is a thread, and what one does is ordered: no two threads of a
// block share one, nor do threads of two blocks that follow each other. Otherwise the fiber of
// the thread that ended last is taken, whose stack is in the cache.
Fiber* Block::take_fiber(int number) {
  if (kThreadSanitizer) {
    const size_t place = 2 * static_cast<size_t>(number) + blocks_ % 2;
    while (fibers_.size() <= place) fibers_.push_back(std::make_unique<Fiber>());
    return fibers_[place].get();
  }
  if (idle_fibers_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>());
    return fibers_.back().get();
  }
  Fiber* fiber = idle_fibers_.back();
  idle_fibers_.pop_back();
  return fiber;
}

void Block::run(const char* kernel, const uint3& index, const dim3& size, size_t dynamic_bytes,
                const std::function<void()>& body) {
  kernel_ = kernel;
  index_ = index;
  body_ = &body;
  dynamic_bytes_ = dynamic_bytes;
  ++blocks_;
  const int count = static_cast<int>(size.x * size.y * size.z);
  threads_.resize(count);
  warps_.assign((count + kWarpSize - 1) / kWarpSize, Warp{});
  turns_.resize(count);
  for (int i = 0; i < count; ++i) {
    Thread& thread = threads_[i];
    thread.state = Thread::State::kReady;
    thread.fiber = nullptr;
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.number = i;
    thread.copies.clear();
    thread.open_group = 0;
    turns_[i] = order_ == Order::kReverse ? count - 1 - i : i;
  }
  alive_ = count;
  vote_ = {};
  failure_.clear();
  if (kThreadSanitizer) {
    orders_ = static_cast<char*>(simt::shared_array(this, 2 + 2 * kWarpSize * warps_.size()));
  }
  run_threads();
  clear();
  if (!failure_.empty()) throw std::runtime_error(failure_);
}

void Block::run_threads() {
  while (alive_ > 0 && failure_.empty()) {
    if (order_ == Order::kRandom) std::shuffle(turns_.begin(), turns_.end(), random_);
    bool moved = false;
    for (const int number : turns_) {
      Thread& thread = threads_[number];
      if (thread.state != Thread::State::kReady) continue;
      moved = true;
      resume(thread);
      if (!failure_.empty()) return;
    }
    if (release_barrier() || moved) continue;
    failure_ = stuck();
  }
}

void Block::clear() {
  for (Thread& thread : threads_) {
    if (thread.fiber && !kThreadSanitizer) idle_fibers_.push_back(thread.fiber);
    thread.fiber = nullptr;
  }
  // Threads that did not end leave ThreadSanitizer's record of their calls unfinished.
  if (kThreadSanitizer && !failure_.empty()) fibers_.clear();
  release_shared_arrays();
  current_ = nullptr;
}

void Block::resume(Thread& thread) {
  if (thread.fiber == nullptr) {
    thread.fiber = take_fiber(thread.number);
    thread.fiber->start(thread_entry);
  }
  current_ = &thread;
  set_thread_index(thread.index);
  thread.fiber->resume();
  if (thread.state == Thread::State::kDone && !kThreadSanitizer) {
    idle_fibers_.push_back(std::exchange(thread.fiber, nullptr));
  }
}

void Block::thread_entry() {
  Block& self = block();
  acquire(&launch_order);
  (*self.body_)();
  release(&end_order);
  self.current_->state = Thread::State::kDone;
  --self.alive_;
  Fiber::finish();
}

int Block::lane() const { return current_->number % kWarpSize; }

BarrierVote Block::barrier(bool predicate, Location where) {
  Thread& self = *current_;
  char* order = orders_ + barrier_generation_ % 2;
  self.state = Thread::State::kAtBarrier;
  self.waits_at = where;
  self.waits_for = "__syncthreads";
  ++vote_.threads;
  vote_.held += predicate;
  release(order);
  Fiber::suspend();
  acquire(order);
  return self.vote;
}

// Lets all threads go on that wait at the barrier, once no other thread is left.
bool Block::release_barrier() {
  if (alive_ == 0 || vote_.threads < alive_) return false;
  const Thread* first = nullptr;
  for (Thread& thread : threads_) {
    if (thread.state != Thread::State::kAtBarrier) continue;
    if (first == nullptr) first = &thread;
    if (thread.waits_at != first->waits_at) {
      failure_ = "threads of one block are at different barriers\n" + stuck();
      return true;
    }
  }
  for (Thread& thread : threads_) {
    if (thread.state != Thread::State::kAtBarrier) continue;
    thread.state = Thread::State::kReady;
    thread.vote = vote_;
  }
  vote_ = {};
  ++barrier_generation_;
  return true;
}

void Block::meet(uint32_t mask, const char* name, void* operand, Completion complete,
                 Location where) {
  Thread& self = *current_;
  check_meeting(mask, name, where);
  if (join_meeting(mask, name, operand, complete, where)) return;
  self.state = Thread::State::kAtWarp;
  self.waits_at = where;
  self.waits_for = name;
  Fiber::suspend();
}

void Block::check_meeting(uint32_t mask, const char* name, Location where) {
  const int lane = current_->number % kWarpSize, first = current_->number - lane;
  const auto refuse = [&](const std::string& why) {
    fail(std::string(name) + " at " + text_of(where) + ": " + why);
  };
  if (!(mask & lane_bit(lane))) {
    refuse("lane " + std::to_string(lane) + " is not in its own mask");
  }
  for (int i = 0; i < kWarpSize && first + i < static_cast<int>(threads_.size()); ++i) {
    if ((mask & lane_bit(i)) && threads_[first + i].state == Thread::State::kDone) {
      refuse("lane " + std::to_string(i) + " is in the mask and has ended");
    }
  }
  for (const Meeting& other : warps_[current_->number / kWarpSize].meetings) {
    if (other.is(mask, name, where)) continue;
    // Each waits for the other, there and here.
    if ((other.mask & lane_bit(lane)) && (other.arrived & mask)) {
      refuse(std::string("other lanes of the mask are at ") + other.name + ", " +
             text_of(other.where));
    }
  }
}

// Whether the lane was the last to come: all of them go on.
bool Block::join_meeting(uint32_t mask, const char* name, void* operand, Completion complete,
                         Location where) {
  const Unseen unseen;
  const int lane = current_->number % kWarpSize, first = current_->number - lane;
  Warp& warp = warps_[current_->number / kWarpSize];
  // A mask may name lanes beyond a block whose size is no multiple of the warp's.
  const int left = static_cast<int>(threads_.size()) - first;
  const uint32_t expected = left >= kWarpSize ? mask : mask & (lane_bit(left) - 1);
  auto meeting = std::find_if(warp.meetings.begin(), warp.meetings.end(),
                              [&](const Meeting& other) { return other.is(mask, name, where); });
  if (meeting == warp.meetings.end()) {
    meeting = warp.meetings.insert(meeting, {mask, 0, name, where, {}});
  }
  meeting->operands[lane] = operand;
  meeting->arrived |= lane_bit(lane);
  if (meeting->arrived != expected) return false;
  if (complete) complete(meeting->operands, expected);
  warp.meetings.erase(meeting);
  ++warp.generation[__builtin_ctz(mask)];
  for (int i = 0; i < kWarpSize; ++i) {
    if (expected & lane_bit(i)) threads_[first + i].state = Thread::State::kReady;
  }
  return true;
}

char* Block::sync_order(uint32_t mask) {
  const int warp = current_->number / kWarpSize, lane = __builtin_ctz(mask);
  return orders_ + 2 + 2 * (warp * kWarpSize + lane) + warps_[warp].generation[lane] % 2;
}

void* Block::shared_array(const void* declaration, size_t bytes) {
  return simt::shared_array(declaration, bytes);
}

void* Block::dynamic_shared() { return simt::shared_array(&dynamic_bytes_, dynamic_bytes_); }

void Block::fail(const std::string& message) {
  failure_ = message + "\n" + stuck();
  Fiber::finish();
}

std::string Block::stuck() const {
  std::ostringstream text;
  text << "in block (" << index_.x << ", " << index_.y << ", " << index_.z << ") of " << kernel_;
  constexpr int kShown = 4;
  int waiting = 0;
  const Thread* last = nullptr;
  for (const Thread& thread : threads_) {
    const bool waits =
        thread.state == Thread::State::kAtBarrier || thread.state == Thread::State::kAtWarp;
    if (!waits) continue;
    ++waiting;
    if (last && last->waits_at == thread.waits_at) continue;  // one of each place is named
    last = &thread;
    if (waiting <= kShown * kWarpSize) {
      text << "\n  thread " << thread.number << " waits for " << thread.waits_for << " at "
           << text_of(thread.waits_at);
    }
  }
  if (waiting) {
    text << "\n  " << waiting << " of " << threads_.size() << " threads wait, " << alive_
         << " have not ended";
    if (failure_.empty() && vote_.threads < alive_) text << ": deadlock";
  }
  return text.str();
}

}  // namespace simt
