#include "check.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace fastseg {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  text << (shape.size() == 1 ? ",)" : ")");
  return text.str();
}

Error check_dtype(const char* op, const ArgumentInfo& argument, const char* dtype_name) {
  if (argument.dtype_name == dtype_name) return {};
  return type_error(op, ": ", argument.name, " must have dtype ", dtype_name, ", got ",
                    argument.dtype_name);
}

Error check_floating(const char* op, const ArgumentInfo& argument) {
  if (argument.dtype != ScalarType::kOther) return {};
  return type_error(op, ": ", argument.name, " must have dtype float32 or float64, got ",
                    argument.dtype_name);
}

Error check_same_dtype(const char* op, const ArgumentInfo& a, const ArgumentInfo& b) {
  if (a.dtype_name == b.dtype_name) return {};
  return type_error(op, ": ", b.name, " must have the dtype of ", a.name, ", ", a.dtype_name,
                    ", got ", b.dtype_name);
}

Error check_rank(const char* op, const ArgumentInfo& argument, bool right, const char* pattern) {
  if (right) return {};
  return value_error(op, ": ", argument.name, " must have shape ", pattern, ", got ",
                     shape_text(argument.shape));
}

Error check_between(const char* op, const std::string& name, int64_t value, int64_t low,
                    int64_t high) {
  if (value >= low && value <= high) return {};
  return value_error(op, ": ", name, " must be between ", low, " and ", high, ", got ", value);
}

Error check_finite(const char* op, const std::string& name, const float* values, int64_t count,
                   Parallel parallel) {
  constexpr int64_t kBlock = int64_t{1} << 18;
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::atomic<int64_t> first{count};
  parallel((count + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(count, begin + kBlock);
    bool all = true;  // no way out of this loop, so that it is vectorised
    for (int64_t i = begin; i < end; ++i) all &= std::fabs(values[i]) <= kLargest;
    if (all) return;
    const float* bad =
        std::find_if(values + begin, values + end, [](float x) { return !std::isfinite(x); });
    int64_t seen = first.load();
    while (bad - values < seen && !first.compare_exchange_weak(seen, bad - values)) {
    }
  });
  if (first == count) return {};
  return value_error(op, ": ", name, " must be finite, got ", values[first.load()]);
}

Error from_kernel(const char* op, const std::string& name, Error error) {
  if (error) {
    const size_t plain_name = error.message.find(' ');
    error.message = std::string(op) + ": " + name + error.message.substr(plain_name);
  }
  return error;
}

int64_t checked_product(const std::vector<int64_t>& sizes) {
  if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) return 0;
  int64_t product = 1;
  for (const int64_t size : sizes) {
    if (size < 0 || product > std::numeric_limits<int64_t>::max() / size) return -1;
    product *= size;
  }
  return product;
}

Error check_addressable(const char* op, const ArgumentInfo& argument,
                        const std::vector<int64_t>& sizes, int64_t element_bytes) {
  std::vector<int64_t> bytes = sizes;
  bytes.push_back(element_bytes);
  if (checked_product(bytes) >= 0) return {};
  return value_error(op, ": ", argument.name,
                     " must be small enough for arrays of less than 2^63 bytes, got shape ",
                     shape_text(argument.shape));
}

}  // namespace fastseg
