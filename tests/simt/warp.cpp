#include "warp.h"

#include <cstring>
#include <string>

#include "synchronisation.h"

namespace simt {
namespace {

struct Shuffled {
  void* value;
  size_t bytes;
  int source;
  unsigned char copy[16];
};

struct Vote {
  uint64_t value;
  uint32_t result;
};

template <typename Use>
void for_lanes(uint32_t mask, Use&& use) {
  for (int i = 0; i < kWarpSize; ++i) {
    if (mask >> i & 1) use(i);
  }
}

}  // namespace

void shuffle(uint32_t mask, void* value, size_t bytes, int source, const char* name,
             Location where) {
  if (!(mask >> source & 1)) {
    block().fail(std::string(name) + " at " + text_of(where) + ": lane " +
                 std::to_string(block().lane()) + " reads lane " + std::to_string(source) +
                 ", which is not in the mask");
  }
  Shuffled operand = {value, bytes, source, {}};
  block().meet(
      mask, name, &operand,
      [](void* const operands[kWarpSize], uint32_t lanes) {
        const auto of = [&](int i) { return static_cast<Shuffled*>(operands[i]); };
        for_lanes(lanes, [&](int i) { std::memcpy(of(i)->copy, of(i)->value, of(i)->bytes); });
        for_lanes(lanes, [&](int i) {
          // A lane beyond the block's last thread is in the mask and brings nothing.
          if (Shuffled* from = of(of(i)->source)) {
            std::memcpy(of(i)->value, from->copy, of(i)->bytes);
          } else {
            std::memset(of(i)->value, 0xff, of(i)->bytes);
          }
        });
      },
      where);
}

uint32_t ballot(uint32_t mask, bool predicate, const char* name, Location where) {
  Vote vote = {predicate, 0};
  block().meet(
      mask, name, &vote,
      [](void* const operands[kWarpSize], uint32_t lanes) {
        const auto of = [&](int i) { return static_cast<Vote*>(operands[i]); };
        uint32_t result = 0;
        for_lanes(lanes, [&](int i) { result |= static_cast<uint32_t>(of(i)->value) << i; });
        for_lanes(lanes, [&](int i) { of(i)->result = result; });
      },
      where);
  return vote.result;
}

uint32_t match_any(uint32_t mask, uint64_t value, Location where) {
  Vote vote = {value, 0};
  block().meet(
      mask, "__match_any_sync", &vote,
      [](void* const operands[kWarpSize], uint32_t lanes) {
        const auto of = [&](int i) { return static_cast<Vote*>(operands[i]); };
        for_lanes(lanes, [&](int i) {
          for_lanes(lanes,
                    [&](int j) { of(i)->result |= uint32_t{of(i)->value == of(j)->value} << j; });
        });
      },
      where);
  return vote.result;
}

}  // namespace simt

void simt_fence() {
  static char order;
  simt::acquire(&order);
  simt::release(&order);
}
