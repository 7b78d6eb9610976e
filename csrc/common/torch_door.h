#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.h"
#include "parallel.h"

// What the operators need of torch's stable ABI, and how their errors leave it.
namespace fastseg {

using Tensor = torch::stable::Tensor;
using TensorType = torch::headeronly::ScalarType;

// A `str` argument. torch's own conversion to std::string loses the string that it makes.
struct Text {
  std::string value;
};

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return std::vector<int64_t>(sizes.begin(), sizes.end());
}

ArgumentInfo info_of(std::string name, const Tensor& tensor);

// torch hands on the text of an exception and not its kind: the text begins with the kind, and
// fastseg.ops makes the Python exception from it.
[[noreturn]] void raise(const Error& error);
inline void raise_if(const Error& error) {
  if (error) raise(error);
}

// No memory on a device that is not the CPU, in torch's own words: how much was asked for.
class OutOfDeviceMemory : public std::bad_alloc {
 public:
  explicit OutOfDeviceMemory(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// Runs an operator's body; a lack of memory or a bad FASTSEG_ISA leaves with its kind, too.
template <typename Body>
auto with_error_kinds(const char* op, Body&& body) {
  try {
    return body();
  } catch (const OutOfDeviceMemory& error) {
    throw std::runtime_error("fastseg OutOfMemoryError: " + std::string(op) + ": " + error.what());
  } catch (const std::bad_alloc&) {
    throw std::runtime_error("fastseg MemoryError: " + std::string(op) + ": out of memory");
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error("fastseg ValueError: " + std::string(error.what()));
  }
}

// Tasks on torch's threads: on those of the crew that the calling thread leads, or else, and at
// the price of a barrier for all of torch's threads, on a crew for these tasks alone.
Parallel torch_threads();

void run_with_torch_crew(void (*body)(void* context), void* context);

// Runs body() on one of torch's threads and has the others help with its parallel calls. They are
// called together once, and not once for each call: OpenMP's barriers wait for every thread, and
// where another process has a processor each of them costs a time slice.
template <typename Body>
void with_torch_crew(Body&& body) {
  using Fn = typename std::remove_reference<Body>::type;
  run_with_torch_crew([](void* context) { (*static_cast<Fn*>(context))(); },
                      const_cast<void*>(static_cast<const void*>(&body)));
}

// Uninitialised tensor, on the CPU if nothing else is said, and a contiguous copy or the tensor
// itself where it is contiguous; std::bad_alloc where there is no memory for it. torch's other
// errors, such as those of a GPU's work before, leave as torch words them.
using Device = torch::stable::Device;
Tensor empty_tensor(const std::vector<int64_t>& shape, TensorType type,
                    std::optional<Device> device = std::nullopt);
Tensor packed(const Tensor& tensor);
// The contiguous tensor itself, or a copy where its first number is not at a multiple of `bytes`.
Tensor aligned(const Tensor& tensor, size_t bytes);

// Uninitialised floats that stay for long, such as a layer's weights; on huge pages if many.
Tensor empty_lasting(int64_t size);

// Uninitialised (B, C, H, W), NCHW or channels_last; and such a tensor's numbers without gaps.
// Large ones on the CPU lie in scratch memory, and their pages wait for the next call.
Tensor empty_image(int64_t batch, int64_t channels, int64_t height, int64_t width, TensorType type,
                   bool channels_last, std::optional<Device> device = std::nullopt);
Tensor packed_image(const Tensor& image, bool channels_last);

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace fastseg

HIDDEN_NAMESPACE_BEGIN(torch, stable, detail)
template <>
struct ToImpl<fastseg::Text> {
  static fastseg::Text call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = to<StringHandle>(value);
    size_t length = 0;
    const char* characters = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &characters));
    fastseg::Text text{std::string(characters, length)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};
HIDDEN_NAMESPACE_END(torch, stable, detail)
