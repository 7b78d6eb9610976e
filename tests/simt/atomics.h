#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

// Atomic functions. They order nothing, as in CUDA: ThreadSanitizer sees relaxed atomics.
namespace simt {

// Any type of 4 or 8 bytes through the integer of its size.
template <typename T>
struct AtomicBits {
  using type = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
};

template <typename T, typename Update>
T atomic_update(T* address, Update&& update) {
  using Bits = typename AtomicBits<T>::type;
  static_assert(sizeof(T) == sizeof(Bits));
  auto* place = reinterpret_cast<Bits*>(address);
  Bits before = __atomic_load_n(place, __ATOMIC_RELAXED), after;
  T old;
  do {
    std::memcpy(&old, &before, sizeof(T));
    const T value = update(old);
    std::memcpy(&after, &value, sizeof(T));
  } while (!__atomic_compare_exchange_n(place, &before, after, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
  return old;
}

}  // namespace simt

#define SIMT_ATOMIC(name, ...)                                                    \
  template <typename T>                                                           \
  T name(T* address, T operand) {                                                 \
    return simt::atomic_update(address, [&](T old) -> T { return __VA_ARGS__; }); \
  }
SIMT_ATOMIC(atomicAdd, old + operand)
SIMT_ATOMIC(atomicSub, old - operand)
SIMT_ATOMIC(atomicMin, operand < old ? operand : old)
SIMT_ATOMIC(atomicMax, operand > old ? operand : old)
SIMT_ATOMIC(atomicAnd, old& operand)
SIMT_ATOMIC(atomicOr, old | operand)
SIMT_ATOMIC(atomicXor, old ^ operand)
SIMT_ATOMIC(atomicExch, (static_cast<void>(old), operand))
#undef SIMT_ATOMIC

template <typename T>
T atomicCAS(T* address, T expected, T operand) {
  return simt::atomic_update(address, [&](T old) { return old == expected ? operand : old; });
}
