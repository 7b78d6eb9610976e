#pragma once

#include <cstdint>
#include <functional>

namespace fastseg {
namespace cuda {

// Device memory that lives until what the stream has been given is done.
using Allocate = std::function<void*(int64_t bytes)>;

}  // namespace cuda
}  // namespace fastseg
