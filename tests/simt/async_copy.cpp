#include "async_copy.h"

#include <cstdint>
#include <string>

namespace simt {

bool begin_copy(const AsyncCopy& copy, Location where) {
  const std::string at = "cp.async at " + text_of(where);
  if (copy.bytes != 4 && copy.bytes != 8 && copy.bytes != 16) {
    block().fail(at + ": copies 4, 8 or 16 bytes, not " + std::to_string(copy.bytes));
  }
  if (copy.zero_bytes > copy.bytes) block().fail(at + ": more zeros than bytes");
  const auto addresses =
      reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from);
  if (addresses % copy.bytes) block().fail(at + ": addresses are not aligned to the size");
  const Unseen unseen;
  if (block().copies_at_issue()) return true;
  Thread& self = block().current();
  self.copies.push_back(copy);
  self.copies.back().group = self.open_group;
  return false;
}

void end_group() { ++block().current().open_group; }

bool take_copy(size_t open, AsyncCopy* copy) {
  Thread& self = block().current();
  if (self.copies.empty()) return false;
  if (self.copies.front().group + static_cast<long long>(open) >= self.open_group) return false;
  const Unseen unseen;
  *copy = self.copies.front();
  self.copies.erase(self.copies.begin());
  return true;
}

}  // namespace simt
