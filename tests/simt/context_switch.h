#pragma once

// The switch between two contexts (a stack, and the registers that a call preserves), on x86-64 and
// aarch64. Unlike ucontext's it makes no system call: a switch costs a few nanoseconds.
namespace simt {

// A context that begins with a call of `entry`, which must not return. `stack_top` is the end of
// its stack.
void* new_context(void* stack_top, void (*entry)());

}  // namespace simt

// Leaves the running context, which *save then holds, for the one that `load` holds.
extern "C" void simt_switch_context(void** save, void* load);
