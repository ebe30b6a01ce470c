#include "decoder/device_kv_cache.h"

#include <algorithm>
#include <atomic>

namespace smoe {
namespace {

uint64_t next_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

size_t DeviceKvShape::layer_bytes() const {
  return static_cast<size_t>(kv.kv_heads) * cu::kPageTokens * static_cast<size_t>(kv.key_dim + kv.value_dim) *
         (f32 ? sizeof(float) : sizeof(cu::bf16));
}

// StepInput counts positions in 32 bits.
DeviceKvCache::DeviceKvCache(std::shared_ptr<Device> device, DeviceKvShape shape, int64_t capacity)
    : device_(std::move(device)), shape_(shape), id_(next_id()), capacity_(std::min<int64_t>(capacity, INT32_MAX)) {}

Status DeviceKvCache::reserve(int64_t length) {
  if (length > capacity_) {
    return error(Code::ContextOverflow, "%lld positions do not fit a context of %lld", static_cast<long long>(length),
                 static_cast<long long>(capacity_));
  }
  while (static_cast<int64_t>(pages_.size()) * cu::kPageTokens < length) {
    DeviceBuffer page;
    SMOE_RETURN_IF_ERROR(device_->allocate(shape_.page_bytes(), &page));
    addresses_.push_back(page.data());
    pages_.push_back(std::move(page));
  }
  return Status();
}

void DeviceKvCache::truncate(int64_t length) { length_ = std::clamp<int64_t>(length, 0, length_); }

}  // namespace smoe
