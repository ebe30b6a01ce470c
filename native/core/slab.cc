#include "core/slab.h"

#include <algorithm>
#include <iterator>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace smoe {
namespace {

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

#if defined(__linux__)
// Contents of the whole huge pages inside [begin, end) are no longer needed.
void give_back(char* base, size_t begin, size_t end) {
  begin = round_up(begin, kHugePage);
  end = end / kHugePage * kHugePage;
  if (begin < end) madvise(base + begin, end - begin, MADV_DONTNEED);
}
#else
void give_back(char*, size_t, size_t) {}
#endif

}  // namespace

#if defined(__linux__)
void* map_huge(size_t bytes) {
  const size_t length = round_up(bytes, kHugePage);
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

void unmap_huge(void* base, size_t bytes) { munmap(base, round_up(bytes, kHugePage)); }
#else
void* map_huge(size_t) { return nullptr; }
void unmap_huge(void*, size_t) {}
#endif

SlabPool::~SlabPool() {
  for (auto& [base, slab] : slabs_) unmap_huge(base, kSlabBytes);
}

void* SlabPool::take(char* base, Slab* slab, size_t bytes) {
  if (slab->largest < bytes) return nullptr;
  size_t largest = 0;
  for (auto run = slab->free.begin(); run != slab->free.end(); ++run) {
    const auto [offset, length] = *run;
    if (length < bytes) {
      largest = std::max(largest, length);
      continue;
    }
    if (length > bytes) slab->free.emplace_hint(std::next(run), offset + bytes, length - bytes);
    slab->free.erase(run);
    slab->used += bytes;
    return base + offset;
  }
  slab->largest = largest;
  return nullptr;
}

void* SlabPool::allocate(size_t bytes) {
  if (bytes == 0 || bytes > kSlabBytes) return nullptr;
  bytes = round_up(bytes, kAlignment);
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    for (auto& [base, slab] : slabs_) {
      if (void* memory = take(base, &slab, bytes)) return memory;
    }
    char* base = static_cast<char*>(map_huge(kSlabBytes));
    if (base == nullptr) return nullptr;
    Slab slab;
    slab.free.emplace(0, kSlabBytes);
    try {
      return take(base, &slabs_.emplace(base, std::move(slab)).first->second, bytes);
    } catch (const std::bad_alloc&) {
      slabs_.erase(base);
      unmap_huge(base, kSlabBytes);
      throw;
    }
  } catch (const std::bad_alloc&) {  // of a node of a map: nothing has been taken
    return nullptr;
  }
}

bool SlabPool::release(void* memory, size_t bytes) {
  bytes = round_up(bytes, kAlignment);
  char* at = static_cast<char*>(memory);
  const std::lock_guard<std::mutex> lock(mutex_);
  auto found = slabs_.upper_bound(at);
  if (found == slabs_.begin()) return false;
  --found;
  char* base = found->first;
  if (at >= base + kSlabBytes) return false;
  Slab& slab = found->second;
  slab.used -= bytes;
  if (slab.used == 0) {
    unmap_huge(base, kSlabBytes);
    slabs_.erase(found);
    return true;
  }
  size_t begin = static_cast<size_t>(at - base), end = begin + bytes;
  auto next = slab.free.lower_bound(begin);
  const auto before = next == slab.free.begin() ? slab.free.end() : std::prev(next);
  const bool joins_before = before != slab.free.end() && before->first + before->second == begin;
  const bool joins_next = next != slab.free.end() && next->first == end;
  // Nodes are reused where runs join, so that only a run with no free neighbour needs memory.
  if (joins_next) end += next->second;
  if (joins_before) {
    begin = before->first;
    before->second = end - begin;
    if (joins_next) slab.free.erase(next);
  } else if (joins_next) {
    auto node = slab.free.extract(next);
    node.key() = begin;
    node.mapped() = end - begin;
    slab.free.insert(std::move(node));
  } else {
    try {
      slab.free.emplace(begin, end - begin);
    } catch (const std::bad_alloc&) {  // the run stays unused until its slab goes
    }
  }
  slab.largest = std::max(slab.largest, end - begin);
  give_back(base, begin, end);
  return true;
}

size_t SlabPool::slabs() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return slabs_.size();
}

SlabPool& SlabPool::process() {
  static SlabPool* pool = new SlabPool;  // never destroyed: buffers of other statics may outlive it
  return *pool;
}

}  // namespace smoe
