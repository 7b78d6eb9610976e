#pragma once

namespace fastseg {

// What follows a convolution: nothing, max(0, x), or min(6, max(0, x)).
enum class Activation { kNone, kRelu, kRelu6 };

}  // namespace fastseg
