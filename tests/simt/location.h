#pragma once

#include <cstring>
#include <string>

namespace simt {

// A place in a kernel, for messages. As the default value of a parameter it is the caller's.
struct Location {
  const char* file;
  int line;
  static Location here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Location& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
  bool operator!=(const Location& other) const { return !(*this == other); }
};

inline std::string text_of(const Location& where) {
  return std::string(where.file) + ":" + std::to_string(where.line);
}

#define SIMT_CALLER ::simt::Location where = {__builtin_FILE(), __builtin_LINE()}

}  // namespace simt
