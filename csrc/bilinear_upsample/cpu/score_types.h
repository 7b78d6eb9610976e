#pragma once

#include <cstdint>

#include "../../common/arithmetic.h"
#include "../../common/half.h"

// Scores are read into the type of the arithmetic, and rounded once when they are written.
namespace fastseg {
namespace FASTSEG_ISA {

template <typename S>
inline Arithmetic<S> widen(S value) {
  return static_cast<Arithmetic<S>>(value);
}

template <typename S>
inline void narrow(Arithmetic<S> value, S& to) {
  to = static_cast<S>(value);
}

template <typename S>
inline void widen_row(const S* from, int64_t count, Arithmetic<S>* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}

template <typename S>
inline void narrow_row(const Arithmetic<S>* from, int64_t count, S* to) {
  for (int64_t i = 0; i < count; ++i) narrow(from[i], to[i]);
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
