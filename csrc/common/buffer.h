#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace fastseg {

// Scratch memory for large arrays. When blocks of a megabyte and more are released, up to 512 MiB
// of them wait for the next call, within one and a half times the most that was ever in use: fresh
// pages cost more than some of the passes that use them. Thread-safe; throws std::bad_alloc.
void* acquire_scratch(size_t bytes);

// The same, for what stays: it goes back to the system when it is released.
void* acquire_lasting(size_t bytes);

// Takes what either of them gave.
void release_scratch(void* memory);

// Owner of an uninitialised array of trivial T, 64-byte aligned.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) { reset(size); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() { release_scratch(data_); }

  void reset(size_t size) {
    release_scratch(data_);
    data_ = nullptr;
    size_ = 0;
    if (size > (SIZE_MAX >> 1) / sizeof(T)) size = (SIZE_MAX >> 1) / sizeof(T);
    data_ = static_cast<T*>(acquire_scratch(size * sizeof(T)));
    size_ = size;
  }
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fastseg
