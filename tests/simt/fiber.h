#pragma once

#include <cstddef>

// Contexts that the sanitizers know of. The emulator's own sources are compiled without
// instrumentation, whatever the kernels are compiled with: SIMT_ADDRESS_SANITIZER and
// SIMT_THREAD_SANITIZER say with what.
namespace simt {

#if defined(SIMT_THREAD_SANITIZER)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

// One at a time runs, on the thread that resumes it, until it suspends itself.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() call `entry`, whatever the fiber did before. `entry` must end with
  // finish().
  void start(void (*entry)());
  void resume();

  // Called by the running fiber: back to resume().
  static void suspend();
  [[noreturn]] static void finish();

 private:
  static void enter();
  static void leave(bool for_good);

  char* mapping_;
  char* stack_;
  void* context_ = nullptr;
  void (*entry_)() = nullptr;
  void* fake_stack_ = nullptr;        // AddressSanitizer's
  void* sanitizer_thread_ = nullptr;  // ThreadSanitizer's
};

// For ThreadSanitizer: what a thread did before release(at) happens before what another does after
// acquire(at). Without it they do nothing.
void acquire(void* at);
void release(void* at);

// Hides from ThreadSanitizer, for as long as it exists, the emulator's own calls of functions that
// it intercepts: memcpy, malloc, mmap. Its fiber must not be suspended meanwhile.
class Unseen {
 public:
  Unseen();
  ~Unseen();
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

}  // namespace simt
