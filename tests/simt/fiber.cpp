#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "context_switch.h"

#if defined(SIMT_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SIMT_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace simt {
namespace {

constexpr size_t kPage = 65536;  // the largest of any system served
// Instrumented frames are larger.
#if defined(SIMT_ADDRESS_SANITIZER) || defined(SIMT_THREAD_SANITIZER)
constexpr size_t kStackBytes = 4 * kPage;
#else
constexpr size_t kStackBytes = kPage;
#endif

// The context that resumes fibers.
struct Resumer {
  void* context = nullptr;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  void* sanitizer_thread = nullptr;
};
Resumer resumer;
Fiber* running = nullptr;

}  // namespace

Fiber::Fiber() {
  // The first page is never mapped: a stack that overflows ends there.
  void* mapping = mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  stack_ = mapping_ + kPage;
  mprotect(mapping_, kPage, PROT_NONE);
#if defined(SIMT_THREAD_SANITIZER)
  sanitizer_thread_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(SIMT_THREAD_SANITIZER)
  __tsan_destroy_fiber(sanitizer_thread_);
#endif
  munmap(mapping_, kPage + kStackBytes);
}

void Fiber::start(void (*entry)()) {
#if defined(SIMT_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  entry_ = entry;
  context_ = new_context(stack_ + kStackBytes, enter);
}

void Fiber::resume() {
  running = this;
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&resumer.fake_stack, stack_, kStackBytes);
#endif
#if defined(SIMT_THREAD_SANITIZER)
  resumer.sanitizer_thread = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(sanitizer_thread_, __tsan_switch_to_fiber_no_sync);
#endif
  simt_switch_context(&resumer.context, context_);
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(resumer.fake_stack, nullptr, nullptr);
#endif
}

void Fiber::enter() {
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(nullptr, &resumer.stack_bottom, &resumer.stack_size);
#endif
  running->entry_();
  __builtin_trap();
}

void Fiber::leave([[maybe_unused]] bool for_good) {
  Fiber* self = running;
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self->fake_stack_, resumer.stack_bottom,
                                 resumer.stack_size);
#endif
#if defined(SIMT_THREAD_SANITIZER)
  __tsan_switch_to_fiber(resumer.sanitizer_thread, __tsan_switch_to_fiber_no_sync);
#endif
  simt_switch_context(&self->context_, resumer.context);
#if defined(SIMT_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(self->fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::suspend() { leave(false); }

void Fiber::finish() {
  leave(true);
  __builtin_unreachable();
}

#if defined(SIMT_THREAD_SANITIZER)
void acquire(void* at) { __tsan_acquire(at); }
void release(void* at) { __tsan_release(at); }
Unseen::Unseen() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
Unseen::~Unseen() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
void acquire(void*) {}
void release(void*) {}
Unseen::Unseen() = default;
Unseen::~Unseen() = default;
#endif

}  // namespace simt
