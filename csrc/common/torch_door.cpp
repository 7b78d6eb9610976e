#include "torch_door.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <optional>

#include "buffer.h"
#include "crew.h"
#include "task_queue.h"

namespace fastseg {
namespace {

const char* dtype_name(TensorType type) {
  switch (type) {
    case TensorType::Float:
      return "float32";
    case TensorType::Double:
      return "float64";
    case TensorType::Half:
      return "float16";
    case TensorType::BFloat16:
      return "bfloat16";
    case TensorType::Byte:
      return "uint8";
    case TensorType::Char:
      return "int8";
    case TensorType::Short:
      return "int16";
    case TensorType::Int:
      return "int32";
    case TensorType::Long:
      return "int64";
    case TensorType::Bool:
      return "bool";
    case TensorType::ComplexHalf:
      return "complex32";
    case TensorType::ComplexFloat:
      return "complex64";
    case TensorType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(type);
  }
}

// What torch's allocators say where memory lacks, on the CPU and on a GPU: torch hands on no kinds.
constexpr std::array kNoMemoryOnCpu = {"DefaultCPUAllocator: ", "std::bad_alloc"};
constexpr std::array kNoMemoryOnDevice = {" out of memory. ", "CUDA error: out of memory",
                                          " would exceed allowed memory"};

template <typename Phrases>
bool holds_any(const std::string& text, const Phrases& phrases) {
  return std::any_of(phrases.begin(), phrases.end(),
                     [&](const char* phrase) { return text.find(phrase) != std::string::npos; });
}

[[noreturn]] void raise_as_torch(const std::string& text) {
  if (holds_any(text, kNoMemoryOnCpu)) throw std::bad_alloc();
  if (holds_any(text, kNoMemoryOnDevice)) throw OutOfDeviceMemory(text);
  throw std::runtime_error(text);
}

// Unlike torch::stable's functions, says nothing on stderr.
Tensor call_dispatcher(const char* op, const char* overload, StableIValue* stack) {
  if (torch_call_dispatcher(op, overload, stack, TORCH_ABI_VERSION) != TORCH_SUCCESS) {
    raise_as_torch(torch_exception_get_what_without_backtrace());
  }
  return torch::stable::detail::to<Tensor>(stack[0]);
}

using torch::headeronly::MemoryFormat;

Tensor empty_in_format(const std::vector<int64_t>& shape, TensorType type,
                       std::optional<Device> device, std::optional<MemoryFormat> format) {
  using torch::stable::detail::from;
  const torch::headeronly::IntHeaderOnlyArrayRef sizes(shape.data(), shape.size());
  std::array<StableIValue, 6> stack = {from(sizes),        from(std::optional<TensorType>(type)),
                                       from(std::nullopt), from(device),
                                       from(std::nullopt), from(format)};
  return call_dispatcher("aten::empty", "memory_format", stack.data());
}

int64_t element_size(TensorType type) {
  switch (type) {
    case TensorType::Double:
      return 8;
    case TensorType::Half:
    case TensorType::BFloat16:
      return 2;
    default:
      return 4;
  }
}

// A tensor over what acquire_scratch or acquire_lasting gave, which it releases.
Tensor over_memory(void* memory, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides, TensorType type) {
  using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;
  try {
    return torch::stable::from_blob(
        memory, Sizes(shape.data(), shape.size()), Sizes(strides.data(), strides.size()),
        torch::stable::Device(torch::headeronly::DeviceType::CPU), type, release_scratch);
  } catch (...) {
    release_scratch(memory);
    throw;
  }
}

struct Led {
  Crew* crew = nullptr;
  int helpers = 0;
};
thread_local Led led;  // the crew that this thread leads

void run_on_torch_threads(int64_t count, void (*body)(void*, int64_t), void* context) {
  if (count <= 1) return serial().run(count, body, context);
  TaskQueue tasks(count, body, context);
  if (led.crew) {
    const Led crew = std::exchange(led, Led{});  // a task that calls for threads leads no one
    crew.crew->run(tasks, static_cast<int>(std::min<int64_t>(crew.helpers, count - 1)));
    led = crew;
  } else {
    torch::stable::parallel_for(0, count, 1, [&](int64_t, int64_t) { tasks.drain(); });
  }
  tasks.rethrow();
}

}  // namespace

Parallel torch_threads() { return {run_on_torch_threads}; }

void run_with_torch_crew(void (*body)(void*), void* context) {
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  if (threads == 1 || led.crew) return body(context);
  Crew crew;
  std::atomic<int> arrived{0};
  std::exception_ptr failure;
  // The first to arrive leads. Where torch has fewer threads to give, or gives them one after
  // the other, the leader works alone and the others find the crew dismissed.
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const int order = arrived.fetch_add(1);
    if (order > 0) return crew.serve(order - 1, 0);
    led = {&crew, threads - 1};
    try {
      body(context);
    } catch (...) {
      failure = std::current_exception();
    }
    led = {};
    crew.dismiss();
  });
  if (failure) std::rethrow_exception(failure);
}

ArgumentInfo info_of(std::string name, const Tensor& tensor) {
  const TensorType type = tensor.scalar_type();
  const ScalarType kind = type == TensorType::Float    ? ScalarType::kFloat32
                          : type == TensorType::Double ? ScalarType::kFloat64
                                                       : ScalarType::kOther;
  return {std::move(name), shape_of(tensor), kind, dtype_name(type)};
}

void raise(const Error& error) {
  const char* kind = error.kind == ErrorKind::kType ? "TypeError" : "ValueError";
  throw std::runtime_error("fastseg " + std::string(kind) + ": " + error.message);
}

Tensor empty_tensor(const std::vector<int64_t>& shape, TensorType type,
                    std::optional<Device> device) {
  return empty_in_format(shape, type, device, std::nullopt);
}

Tensor empty_lasting(int64_t size) {
  void* memory = acquire_lasting(static_cast<size_t>(size) * sizeof(float));
  return over_memory(memory, {size}, {1}, TensorType::Float);
}

Tensor empty_image(int64_t batch, int64_t channels, int64_t height, int64_t width, TensorType type,
                   bool channels_last, std::optional<Device> device) {
  // Fresh pages for large images cost as much as some layers do.
  constexpr int64_t kLarge = int64_t{8} << 20;  // bytes
  const int64_t pixels = height * width;
  const int64_t bytes = batch * channels * pixels * element_size(type);
  if (!device && bytes >= kLarge) {
    const std::vector<int64_t> strides =
        channels_last ? std::vector<int64_t>{channels * pixels, 1, width * channels, channels}
                      : std::vector<int64_t>{channels * pixels, pixels, width, 1};
    return over_memory(acquire_scratch(static_cast<size_t>(bytes)),
                       {batch, channels, height, width}, strides, type);
  }
  return empty_in_format({batch, channels, height, width}, type, device,
                         channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Tensor packed(const Tensor& tensor) { return packed_image(tensor, false); }

Tensor aligned(const Tensor& tensor, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes == 0) return tensor;
  Tensor copy = empty_tensor(shape_of(tensor), tensor.scalar_type(), tensor.device());
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor packed_image(const Tensor& image, bool channels_last) {
  using torch::stable::detail::from;
  std::array<StableIValue, 2> stack = {
      from(image), from(channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous)};
  return call_dispatcher("aten::contiguous", "", stack.data());
}

}  // namespace fastseg
