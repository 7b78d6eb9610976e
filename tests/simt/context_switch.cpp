#include "context_switch.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch_context
.hidden simt_switch_context
.type simt_switch_context, @function
simt_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_context, .-simt_switch_context
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl simt_switch_context
.hidden simt_switch_context
.type simt_switch_context, %function
simt_switch_context:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch_context, .-simt_switch_context
)");
#else
#error "The emulator switches contexts on x86-64 and aarch64 only"
#endif

namespace simt {

void* new_context(void* stack_top, void (*entry)()) {
  // The frame that simt_switch_context pops, and `entry` where its return address lies.
#if defined(__x86_64__)
  constexpr int kWords = 6 + 1 + 1, kReturn = 6;  // the last word stands for entry's own return
#else
  constexpr int kWords = 20, kReturn = 11;
#endif
  auto top = reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t{15};
  auto* frame = reinterpret_cast<void**>(top) - kWords;
  std::memset(frame, 0, kWords * sizeof(void*));
  frame[kReturn] = reinterpret_cast<void*>(entry);
  return frame;
}

}  // namespace simt
