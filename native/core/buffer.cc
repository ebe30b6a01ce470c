#include "core/buffer.h"

#include <new>

#include "core/slab.h"

namespace smoe {
namespace {

constexpr size_t kAlignment = 64;  // one cache line, one chunk of a packed tile

// Four huge pages: from here on whole pages of its own waste at most an eighth on average.
constexpr size_t kMapFrom = 4 * kHugePage;
// Eight small pages: smaller runs are not worth a walk through the slabs, nor does reading them stream.
constexpr size_t kSlabFrom = size_t{32} << 10;

#if defined(__linux__)
constexpr bool kHugePages = true;
#else
constexpr bool kHugePages = false;
#endif
// AddressSanitizer sees no overrun from one buffer of a slab into the next.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSlabs = false;
#else
constexpr bool kSlabs = kHugePages;
#endif

bool mapped(size_t bytes) { return kHugePages && bytes >= kMapFrom; }
bool in_slab(size_t bytes) { return kSlabs && bytes >= kSlabFrom && bytes < kMapFrom; }

}  // namespace

Status Buffer::allocate(size_t bytes) {
  release();
  if (bytes == 0) return {};
  void* memory = nullptr;
  if (bytes <= static_cast<size_t>(PTRDIFF_MAX) / 2) {
    if (mapped(bytes)) {
      memory = map_huge(bytes);
    } else {
      if (in_slab(bytes)) memory = SlabPool::process().allocate(bytes);
      if (memory == nullptr) memory = ::operator new(bytes, std::align_val_t(kAlignment), std::nothrow);
    }
  }
  if (memory == nullptr) return error(Code::OutOfMemory, "could not allocate %zu bytes", bytes);
  data_ = memory;
  bytes_ = bytes;
  return {};
}

void Buffer::release() {
  if (data_ == nullptr) return;
  if (mapped(bytes_)) {
    unmap_huge(data_, bytes_);
  } else if (!in_slab(bytes_) || !SlabPool::process().release(data_, bytes_)) {
    ::operator delete(data_, std::align_val_t(kAlignment));
  }
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
