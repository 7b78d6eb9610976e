#pragma once

#include <cstdint>
#include <type_traits>

namespace fastseg {

// How a kernel asks for threads: it names independent tasks and does not know who runs them.
// `run` calls body(context, i) once for each i in [0, count), in any order, on any threads, and
// returns when all have returned. Kernels cut their work by the size of the problem, never by
// the number of threads, so that the bits of a result do not depend on who runs it.
struct Parallel {
  void (*run)(int64_t count, void (*body)(void* context, int64_t i), void* context);

  template <typename Body>
  void operator()(int64_t count, Body&& body) const {
    using Fn = typename std::remove_reference<Body>::type;
    run(
        count, [](void* context, int64_t i) { (*static_cast<Fn*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }
};

// Runs the tasks one after the other on the calling thread.
inline void run_serially(int64_t count, void (*body)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < count; ++i) body(context, i);
}
inline Parallel serial() { return {run_serially}; }

}  // namespace fastseg
