#pragma once

// The type that numbers of a stored type are computed in: float for half precision.
namespace fastseg {

template <typename S>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};
template <typename S>
using Arithmetic = typename ArithmeticOf<S>::type;

}  // namespace fastseg
