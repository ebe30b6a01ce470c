// Launches that are the same call after call, recorded once and replayed.
#pragma once

#include <functional>

#include "device/device.h"

namespace smoe {

class DeviceGraph {
 public:
  DeviceGraph() = default;
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;
  ~DeviceGraph() { drop(); }

  // `enqueue` gives the stream the same launches, with the same arguments, each time. The first call runs it as it is,
  // because kernels may be loaded then, which a capture does not bear; the second records it; where that is refused,
  // every call runs it. The device's lock is held.
  Status run(const std::shared_ptr<Device>& device, const std::function<Status()>& enqueue);
  // For when memory that the launches use is about to go.
  void drop();
  bool captured() const { return graph_ != nullptr; }

 private:
  void capture(const std::shared_ptr<Device>& device, const std::function<Status()>& enqueue);

  std::shared_ptr<Device> device_;
  void* graph_ = nullptr;
  bool tried_ = false, refused_ = false;
};

}  // namespace smoe
