#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "parallel.h"

// Argument checks that know neither torch nor NumPy. A check returns an Error; the door it came
// through raises it. Every message reads "<op>: <argument> must <rule>, got <finding>".
namespace fastseg {

enum class ErrorKind { kNone, kValue, kType };

struct Error {
  ErrorKind kind = ErrorKind::kNone;
  std::string message;
  explicit operator bool() const { return kind != ErrorKind::kNone; }
};

template <typename... Parts>
Error value_error(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return {ErrorKind::kValue, text.str()};
}

template <typename... Parts>
Error type_error(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return {ErrorKind::kType, text.str()};
}

enum class ScalarType { kFloat32, kFloat64, kOther };

// What a check may know of an argument: its name as the user wrote it, its shape and its dtype.
struct ArgumentInfo {
  std::string name;
  std::vector<int64_t> shape;
  ScalarType dtype;
  std::string dtype_name;
};

// "(2, 3, 5)", as Python prints a shape.
std::string shape_text(const std::vector<int64_t>& shape);

Error check_dtype(const char* op, const ArgumentInfo& argument, const char* dtype_name);
Error check_floating(const char* op, const ArgumentInfo& argument);  // float32 or float64
Error check_same_dtype(const char* op, const ArgumentInfo& a, const ArgumentInfo& b);
// `pattern` is the shape in letters, "(B, L, *spatial)".
Error check_rank(const char* op, const ArgumentInfo& argument, bool right, const char* pattern);
Error check_between(const char* op, const std::string& name, int64_t value, int64_t low,
                    int64_t high);
Error check_finite(const char* op, const std::string& name, const float* values, int64_t count,
                   Parallel parallel);

// A kernel's error, which begins with the argument's plain name ("features must ..."), as the user
// of `op` is to read it, who knows the argument as `name` ("features[1]").
Error from_kernel(const char* op, const std::string& name, Error error);

// Leaves the function with the first error of checks made in turn.
#define FASTSEG_RETURN_IF_ERROR(check)                  \
  do {                                                  \
    if (::fastseg::Error error = (check)) return error; \
  } while (false)

// Product of sizes, or -1 where it would not fit in 63 bits.
int64_t checked_product(const std::vector<int64_t>& sizes);

// Refuses an argument from which the call would make an array of 2^63 bytes or more; `sizes` and
// `element_bytes` are that array's.
Error check_addressable(const char* op, const ArgumentInfo& argument,
                        const std::vector<int64_t>& sizes, int64_t element_bytes);

}  // namespace fastseg
