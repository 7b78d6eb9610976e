#include "shared_memory.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "fiber.h"

#if defined(SIMT_THREAD_SANITIZER)
#include <sys/mman.h>
#endif

namespace simt {
namespace {

struct Array {
  const void* declaration;
  void* memory;
  size_t bytes;
};
std::vector<Array> arrays;

// Fresh memory for each block: the sanitizers must not take what one block did to it for what the
// next one does.
#if defined(SIMT_THREAD_SANITIZER)
void* allocate(size_t bytes) {
  void* memory =
      mmap(nullptr, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}
void deallocate(const Array& array) { munmap(array.memory, array.bytes + 1); }
#else
void* allocate(size_t bytes) {
  void* memory = std::malloc(bytes ? bytes : 1);  // 16-byte aligned
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void deallocate(const Array& array) { std::free(array.memory); }
#endif

}  // namespace

void* shared_array(const void* declaration, size_t bytes) {
  for (const Array& array : arrays) {
    if (array.declaration == declaration) return array.memory;
  }
  const Unseen unseen;
  void* memory = allocate(bytes);
  std::memset(memory, kPoison, bytes);
  arrays.push_back({declaration, memory, bytes});
  return memory;
}

void release_shared_arrays() {
  for (const Array& array : arrays) deallocate(array);
  arrays.clear();
}

}  // namespace simt
