// Keys and values of one sequence on a device, in pages of kPageTokens positions (cuda/operands.h, KvPages). A page
// holds all layers, so a sequence grows by one allocation at a time and nothing moves. The table of pages that kernels
// read is the decoder's and not the cache's: so one captured graph serves every cache.
#pragma once

#include <vector>

#include "decoder/kv_cache.h"
#include "device/device.h"

namespace smoe {

struct DeviceKvShape {
  int layers = 0;
  KvShape kv;
  bool f32 = false;  // Precision::Exact; else bf16

  size_t layer_bytes() const;  // of a page
  size_t page_bytes() const { return layer_bytes() * static_cast<size_t>(layers); }
  bool operator==(const DeviceKvShape& other) const {
    return layers == other.layers && kv == other.kv && f32 == other.f32;
  }
};

class DeviceKvCache {
 public:
  DeviceKvCache(std::shared_ptr<Device> device, DeviceKvShape shape, int64_t capacity);

  const std::shared_ptr<Device>& device() const { return device_; }
  const DeviceKvShape& shape() const { return shape_; }
  uint64_t id() const { return id_; }  // of no other cache of this process, gone ones included

  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  size_t bytes() const { return pages_.size() * shape_.page_bytes(); }
  // Makes room for `length` positions (not above capacity: ContextOverflow). A failure loses nothing.
  Status reserve(int64_t length);
  // Drops positions from the end (a length that is not below the present one changes nothing); their pages stay.
  void truncate(int64_t length);
  void set_length(int64_t length) { length_ = length; }
  // Addresses stay what they are while the cache lives; more may come behind them.
  const std::vector<void*>& pages() const { return addresses_; }

 private:
  std::shared_ptr<Device> device_;
  DeviceKvShape shape_;
  uint64_t id_;
  int64_t capacity_, length_ = 0;
  std::vector<DeviceBuffer> pages_;
  std::vector<void*> addresses_;
};

}  // namespace smoe
