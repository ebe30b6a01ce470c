#include "device/pool.h"

#include <algorithm>

namespace smoe {
namespace {

// Freed memory that is kept: twice what the scratch of a layer's call may take, which comes and goes.
constexpr size_t kMaxIdle = size_t{1} << 30;

constexpr size_t kPage = size_t{2} << 20;
// Slabs double up to this size, so that a small model does not hold much more than it needs. Blocks of up to a quarter
// of it are carved: less than that is left at the end of a slab, and smaller blocks fill it.
constexpr size_t kLargestSlab = size_t{64} << 20, kLargestCarved = kLargestSlab / 4;
constexpr size_t kOpenSlabs = 8;  // whose ends are tried

// Sizes that blocks are rounded to, so that a freed one fits its successor of about the same size: 512 bytes is what
// the runtime aligns to; large ones leave less than 1/32 unused.
size_t rounded(size_t bytes) {
  size_t step = 512;
  while (step * 64 <= bytes) step *= 2;
  return (std::max<size_t>(bytes, 1) + step - 1) / step * step;
}

}  // namespace

DevicePool::Slabs::iterator DevicePool::slab_of(void* memory) {
  unsigned char* const at = static_cast<unsigned char*>(memory);
  auto after = slabs_.upper_bound(at);
  if (after == slabs_.begin()) return slabs_.end();
  --after;
  return at < after->first + after->second.bytes ? after : slabs_.end();
}

// A block that was given back, of a size that wastes little.
void* DevicePool::take_free(size_t* bytes) {
  const auto block = free_.lower_bound({*bytes, nullptr});
  if (block == free_.end() || block->first > *bytes + *bytes / 4) return nullptr;
  void* const memory = block->second;
  *bytes = block->first;
  free_.erase(block);
  cached_ -= *bytes;
  const auto slab = slab_of(memory);
  if (slab == slabs_.end()) {
    idle_ -= *bytes;
  } else if (slab->second.live++ == 0) {
    idle_ -= slab->second.bytes;
  }
  return memory;
}

void* DevicePool::carve(size_t bytes) {
  for (size_t i = open_.size(); i-- > 0;) {
    Slab& slab = slabs_[open_[i]];
    if (slab.bytes - slab.used < bytes) continue;
    unsigned char* const memory = open_[i] + slab.used;
    slab.used += bytes;
    if (slab.live++ == 0) idle_ -= slab.bytes;
    slab.blocks.push_back({bytes, memory});
    return memory;
  }
  return nullptr;
}

// One that has room for `bytes`, unless there is no memory for it.
void DevicePool::add_slab(size_t bytes) {
  const size_t wanted = std::min(kLargestSlab, std::max(next_slab_, (4 * bytes + kPage - 1) / kPage * kPage));
  void* memory = nullptr;
  if (source_.allocate(wanted, &memory) != cu::CudaError::None) return;
  next_slab_ = std::min(kLargestSlab, 2 * wanted);
  unsigned char* const base = static_cast<unsigned char*>(memory);
  slabs_[base].bytes = wanted;
  idle_ += wanted;
  if (open_.size() == kOpenSlabs) open_.erase(open_.begin());
  open_.push_back(base);
}

// A slab none of whose blocks is in use goes back to the source.
void DevicePool::drop(Slabs::iterator slab) {
  for (const auto& block : slab->second.blocks) {
    free_.erase(block);
    cached_ -= block.first;
  }
  idle_ -= slab->second.bytes;
  open_.erase(std::remove(open_.begin(), open_.end(), slab->first), open_.end());
  source_.release(slab->first);
  slabs_.erase(slab);
}

void DevicePool::trim_locked() {
  for (auto slab = slabs_.begin(); slab != slabs_.end();) {
    const auto next = std::next(slab);
    if (slab->second.live == 0) drop(slab);
    slab = next;
  }
  for (auto block = free_.begin(); block != free_.end();) {
    const auto next = std::next(block);
    if (slab_of(block->second) == slabs_.end()) {
      source_.release(block->second);
      cached_ -= block->first;
      idle_ -= block->first;
      free_.erase(block);
    }
    block = next;
  }
}

cu::CudaError DevicePool::allocate(size_t* bytes, void** out) {
  const std::lock_guard<std::mutex> guard(lock_);
  *bytes = rounded(*bytes);
  *out = take_free(bytes);
  cu::CudaError error = cu::CudaError::None;
  if (*out == nullptr && carve_ && *bytes <= kLargestCarved) {
    *out = carve(*bytes);
    if (*out == nullptr) {
      add_slab(*bytes);
      *out = carve(*bytes);
    }
  }
  if (*out == nullptr) error = source_.allocate(*bytes, out);
  if (error == cu::CudaError::OutOfMemory && idle_ > 0) {
    trim_locked();
    error = source_.allocate(*bytes, out);
  }
  if (error == cu::CudaError::None) in_use_ += *bytes;
  return error;
}

void DevicePool::give_back(void* memory, size_t bytes, bool keep) {
  const std::lock_guard<std::mutex> guard(lock_);
  in_use_ -= bytes;
  const auto slab = slab_of(memory);
  if (slab == slabs_.end()) {
    if (!keep || idle_ + bytes > kMaxIdle) {
      source_.release(memory);
      return;
    }
    idle_ += bytes;
  }
  free_.insert({bytes, memory});
  cached_ += bytes;
  if (slab == slabs_.end() || --slab->second.live > 0) return;
  idle_ += slab->second.bytes;
  if (!keep || idle_ > kMaxIdle) drop(slab);
}

void DevicePool::trim() {
  const std::lock_guard<std::mutex> guard(lock_);
  trim_locked();
}

size_t DevicePool::in_use() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return in_use_;
}

size_t DevicePool::cached() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return cached_;
}

}  // namespace smoe
