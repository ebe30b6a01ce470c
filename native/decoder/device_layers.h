// The main path of the decoder on a device.
#pragma once

#include "decoder/device_head.h"
#include "decoder/device_trace.h"

namespace smoe {

struct DeviceLayersArgs {
  DevicePass pass;
  const DeviceRows* rows = nullptr;        // of pass.rows at least
  uint64_t* expert_counts = nullptr;       // on the device, [MoE layers, max_experts()], added to
  const int32_t* expert_planes = nullptr;  // as expert_counts: DeviceMoeLayer::Rows::expert_planes, or null: all
  DeviceTrace* trace = nullptr;            // or null
  const CancelFlag* cancel = nullptr;      // polled between layers
  bool head_wanted = false;
  DeviceHeadArgs head;
};

// Launches, and what enqueue_head() and a trace copy to the host, which arrives when the device is next synchronized.
Status enqueue_layers(const DeviceModel& model, const DeviceLayersArgs& args);

}  // namespace smoe
