#include "buffer.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace fastseg {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kPage = size_t{1} << 16;      // the largest page size of any system we run on
constexpr size_t kKeepFrom = size_t{1} << 20;  // smaller blocks go back to malloc at once
constexpr int64_t kKeepAtMost = int64_t{512} << 20;
constexpr int kSlots = 32;

// In front of each block, so that release needs nothing but the pointer.
struct Header {
  size_t capacity;
  enum Kind { kFromHeap, kWaits, kFromSystem } kind;  // where it goes when it is released
};

// Waiting blocks. A slot is claimed by exchanging its pointer, so that neither another thread nor
// a fork in the middle of a call can find a lock held.
std::atomic<Header*> waiting[kSlots];
std::atomic<int64_t> waiting_bytes{0};

// Large blocks in use, and the most that ever were: used and waiting blocks together take at most
// half as much again, so that keeping them costs the peak of the process no more than that.
std::atomic<int64_t> used_bytes{0};
std::atomic<int64_t> most_used_bytes{0};

Header* header_of(void* memory) {
  return reinterpret_cast<Header*>(static_cast<char*>(memory) - kAlignment);
}

void* block_of(Header* header) { return reinterpret_cast<char*>(header) + kAlignment; }

// Large blocks come straight from the system: the heap would keep what lies between them.
void* map_block(size_t size) {
  const size_t slack = size >= kHugePage ? kHugePage : 0;
  void* mapped =
      mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (slack == 0) return mapped;
  char* begin = static_cast<char*>(mapped);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  if (slack > before) munmap(begin + before + size, slack - before);
#if defined(MADV_HUGEPAGE)
  madvise(begin + before, size, MADV_HUGEPAGE);
#endif
  return begin + before;
}

void unmap_block(Header* header) { munmap(header, header->capacity + kAlignment); }

Header* take_waiting(size_t bytes) {
  for (auto& slot : waiting) {
    Header* header = slot.exchange(nullptr);
    if (header == nullptr) continue;
    if (header->capacity >= bytes && header->capacity <= bytes + bytes / 2) {
      waiting_bytes -= static_cast<int64_t>(header->capacity);
      return header;
    }
    Header* empty = nullptr;
    if (!slot.compare_exchange_strong(empty, header)) {
      waiting_bytes -= static_cast<int64_t>(header->capacity);
      unmap_block(header);
    }
  }
  return nullptr;
}

// Counts a block of `bytes` as used, and frees waiting blocks until there is room.
void make_room(int64_t bytes) {
  const int64_t used = used_bytes += bytes;
  int64_t most = most_used_bytes.load();
  while (used > most && !most_used_bytes.compare_exchange_weak(most, used)) {
  }
  for (auto& slot : waiting) {
    if (used + waiting_bytes.load() <= most_used_bytes.load() * 3 / 2) return;
    if (Header* header = slot.exchange(nullptr)) {
      waiting_bytes -= static_cast<int64_t>(header->capacity);
      unmap_block(header);
    }
  }
}

}  // namespace

void* acquire_lasting(size_t bytes) {
  if (bytes < kKeepFrom) return acquire_scratch(bytes);
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t total = (bytes + kAlignment + kPage - 1) / kPage * kPage;
  Header* header = static_cast<Header*>(map_block(total));
  *header = {total - kAlignment, Header::kFromSystem};
  return block_of(header);
}

void* acquire_scratch(size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const bool kept = bytes >= kKeepFrom;
  const size_t unit = kept ? kPage : kAlignment;
  const size_t total = (bytes + kAlignment + unit - 1) / unit * unit;
  const size_t capacity = total - kAlignment;
  void* memory;
  if (kept) {
    if (Header* header = take_waiting(capacity)) {
      used_bytes += static_cast<int64_t>(header->capacity);
      return block_of(header);
    }
    make_room(static_cast<int64_t>(capacity));
    try {
      memory = map_block(total);
    } catch (...) {
      used_bytes -= static_cast<int64_t>(capacity);
      throw;
    }
  } else {
    memory = std::aligned_alloc(kAlignment, total);
    if (memory == nullptr) throw std::bad_alloc();
  }
  Header* header = static_cast<Header*>(memory);
  *header = {capacity, kept ? Header::kWaits : Header::kFromHeap};
  return block_of(header);
}

void release_scratch(void* memory) {
  if (memory == nullptr) return;
  Header* header = header_of(memory);
  const int64_t capacity = static_cast<int64_t>(header->capacity);
  if (header->kind == Header::kFromHeap) return std::free(header);
  if (header->kind == Header::kFromSystem) return unmap_block(header);
  used_bytes -= capacity;
  if (waiting_bytes.load() + capacity <= kKeepAtMost) {
    waiting_bytes += capacity;
    for (auto& slot : waiting) {
      Header* empty = nullptr;
      if (slot.compare_exchange_strong(empty, header)) return;
    }
    waiting_bytes -= capacity;
  }
  unmap_block(header);
}

}  // namespace fastseg
