// Traces of MoE layers on a device: what trace.cc does, layer by layer copied out (Device::copy_out_later).
#pragma once

#include "decoder/device_rows.h"
#include "decoder/trace.h"

namespace smoe {

// Of one chunk, tokens [first, first + rows) of the call.
class DeviceTrace {
 public:
  static size_t bytes_for(const DeviceModel& model, int64_t rows);
  // memory: [bytes_for(rows)], on the device. traces: sized by size_traces().
  DeviceTrace(const DeviceModel& model, std::vector<LayerTrace>* traces, void* memory, int64_t first, int64_t rows);

  // Before the launches of MoE layer `moe_index`: keeps what they overwrite, and points their optional outputs at
  // memory of the trace.
  Status begin(int moe_index, DeviceMoeLayer::Rows* args);
  // After them.
  Status end(const DeviceMoeLayer::Rows& args);

 private:
  template <class T>
  Status copy(std::vector<T>* to, const T* from, int64_t width);
  void take(DeviceArena* arena, int64_t hidden, int64_t slots, int64_t experts);

  const DeviceModel& model_;
  std::vector<LayerTrace>* traces_;
  void* memory_;
  int64_t first_, rows_;
  LayerTrace* trace_ = nullptr;  // of the layer under way
  float *logits_ = nullptr, *update_ = nullptr;
  cu::RoutingOut routing_;
};

}  // namespace smoe
