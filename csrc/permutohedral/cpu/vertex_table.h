#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../../common/buffer.h"
#include "lattice_key.h"

namespace fastseg {
namespace FASTSEG_ISA {

// Open addressing with linear probing, at most two thirds full.
template <int kWords>
class VertexTable {
 public:
  explicit VertexTable(size_t expected = 0) { clear(expected); }

  void clear(size_t expected) {
    size_t capacity = 1 << 10;
    while (capacity < expected + expected / 2) capacity *= 2;
    if (entries_.size() != capacity) entries_.reset(capacity);
    for (size_t i = 0; i < capacity; ++i) entries_[i].value = kEmpty;
    mask_ = capacity - 1;
    size_ = 0;
  }

  // Value of the key, which becomes `value` where the key is new.
  int32_t find_or_insert(const Key<kWords>& key, uint64_t hash, int32_t value) {
    for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
      Entry& entry = entries_[i];
      if (entry.value == kEmpty) {
        entry = {key, value};
        if (++size_ * 3 > entries_.size() * 2) grow();
        return value;
      }
      if (entry.key == key) return entry.value;
    }
  }

  void prefetch(uint64_t hash) const { __builtin_prefetch(&entries_[hash & mask_]); }

  static constexpr int32_t kEmpty = -1;

 private:
  struct Entry {
    Key<kWords> key;
    int32_t value;
  };

  void grow() {
    Buffer<Entry> old;
    old.swap(entries_);
    entries_.reset(old.size() * 2);
    for (size_t i = 0; i < entries_.size(); ++i) entries_[i].value = kEmpty;
    mask_ = entries_.size() - 1;
    for (size_t i = 0; i < old.size(); ++i) {
      if (old[i].value == kEmpty) continue;
      size_t j = old[i].key.hash() & mask_;
      while (entries_[j].value != kEmpty) j = (j + 1) & mask_;
      entries_[j] = old[i];
    }
  }

  Buffer<Entry> entries_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

// An array that grows at its end.
template <typename T>
class Growing {
 public:
  void push_back(const T& value) {
    if (size_ == items_.size()) reserve(std::max<size_t>(1024, size_ * 2));
    items_[size_++] = value;
  }
  // Adds `count` elements whose bytes are all `byte`.
  void extend(size_t count, int byte) {
    if (size_ + count > items_.size()) reserve(std::max(size_ + count, size_ * 2));
    std::memset(static_cast<void*>(items_.data() + size_), byte, count * sizeof(T));
    size_ += count;
  }
  size_t size() const { return size_; }
  T* data() { return items_.data(); }
  const T* data() const { return items_.data(); }
  T& operator[](size_t i) { return items_[i]; }
  const T& operator[](size_t i) const { return items_[i]; }

 private:
  void reserve(size_t capacity) {
    Buffer<T> bigger(capacity);
    if (size_ > 0) std::memcpy(static_cast<void*>(bigger.data()), items_.data(), size_ * sizeof(T));
    items_ = std::move(bigger);
  }
  Buffer<T> items_;
  size_t size_ = 0;
};

}  // namespace FASTSEG_ISA
}  // namespace fastseg
