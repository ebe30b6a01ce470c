#include "core/buffer.h"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace smoe {
namespace {

constexpr size_t kAlignment = 64;  // one cache line, one chunk of a packed tile

#if defined(__linux__)
constexpr size_t kHugePage = size_t{2} << 20;
// Two huge pages: below that, aligning to 2 MiB wastes more than the saved TLB misses are worth.
constexpr size_t kMapFrom = 2 * kHugePage;

size_t mapped_bytes(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

void* map_huge(size_t bytes) {
  const size_t length = mapped_bytes(bytes);
  // mmap aligns to 4 KiB only: map one huge page more and give the ends back.
  void* base = mmap(nullptr, length + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  const uintptr_t start = reinterpret_cast<uintptr_t>(base);
  const size_t head = (kHugePage - start % kHugePage) % kHugePage;
  if (head > 0) munmap(base, head);
  char* aligned = static_cast<char*>(base) + head;
  munmap(aligned + length, kHugePage - head);
  madvise(aligned, length, MADV_HUGEPAGE);  // advice: a kernel without huge pages refuses and nothing is lost
  return aligned;
}
#endif

}  // namespace

Status Buffer::allocate(size_t bytes) {
  release();
  if (bytes == 0) return {};
  void* memory = nullptr;
  if (bytes <= static_cast<size_t>(PTRDIFF_MAX) / 2) {
#if defined(__linux__)
    memory = bytes >= kMapFrom ? map_huge(bytes) : ::operator new(bytes, std::align_val_t(kAlignment), std::nothrow);
#else
    memory = ::operator new(bytes, std::align_val_t(kAlignment), std::nothrow);
#endif
  }
  if (memory == nullptr) return error(Code::OutOfMemory, "could not allocate %zu bytes", bytes);
  data_ = memory;
  bytes_ = bytes;
  return {};
}

void Buffer::release() {
  if (data_ == nullptr) return;
#if defined(__linux__)
  if (bytes_ >= kMapFrom)
    munmap(data_, mapped_bytes(bytes_));
  else
    ::operator delete(data_, std::align_val_t(kAlignment));
#else
  ::operator delete(data_, std::align_val_t(kAlignment));
#endif
  data_ = nullptr;
  bytes_ = 0;
}

bool checked_product(size_t a, size_t b, size_t* out) {
  constexpr size_t limit = static_cast<size_t>(PTRDIFF_MAX);  // pointer differences must stay representable
  if (a != 0 && b > limit / a) return false;
  *out = a * b;
  return true;
}

}  // namespace smoe
