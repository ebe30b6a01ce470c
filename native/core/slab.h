// Medium-sized, long-lived memory (packed matrices, their scales) side by side on huge pages. A matrix of a quantized
// expert is smaller than a huge page, and read from 4 KiB pages it reaches two thirds of the bandwidth
// (bench/NOTES.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace smoe {

constexpr size_t kHugePage = size_t{2} << 20;

// Maps whole huge pages, aligned; null when there is no memory or the system has no such mapping.
void* map_huge(size_t bytes);
void unmap_huge(void* base, size_t bytes);

// First fit over slabs of huge pages. Pages that no run touches any more go back to the system at once, a slab with
// its last run. Thread-safe.
class SlabPool {
 public:
  static constexpr size_t kSlabBytes = size_t{32} << 20;
  static constexpr size_t kAlignment = 64;

  ~SlabPool();

  // 64-byte aligned, contents undefined; null when there is no memory or `bytes` is 0 or above kSlabBytes.
  void* allocate(size_t bytes);
  // False, with nothing done, when `memory` is not of this pool.
  bool release(void* memory, size_t bytes);

  size_t slabs() const;

  static SlabPool& process();

 private:
  struct Slab {
    std::map<size_t, size_t> free;  // offset -> length, never adjacent
    size_t largest = kSlabBytes;    // no free run is longer
    size_t used = 0;
  };

  mutable std::mutex mutex_;
  std::map<char*, Slab> slabs_;  // by base address

  void* take(char* base, Slab* slab, size_t bytes);
};

}  // namespace smoe
