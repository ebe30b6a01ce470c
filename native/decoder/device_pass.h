// What the stages of one pass of rows through the layers share.
#pragma once

#include "device/arena.h"
#include "device/launch.h"
#include "device/matrix.h"

namespace smoe {

// Rows up to which the kernels that read every weight once for all rows are used (linear_rows, attend_split, gate_up,
// down_combine); their sums run in one order whatever the number of rows, and so do those of the others.
constexpr int64_t kFewRows = 64;

// What the host sends before a pass, in one copy: this, then the ids of the rows, then their targets. A dense
// feed-forward is an expert that every row goes to; its plan does not depend on the layer.
struct PassInput {
  cu::StepInput step;
  int32_t dense_offset[2];
  uint64_t dense_mask;  // of up to kFewRows rows
};

struct DevicePass {
  Device* device = nullptr;
  PassInput* input = nullptr;  // on the device
  int64_t rows = 0;            // of every launch; input->step.tokens of them are real
  void* const* pages = nullptr;

  const cu::StepInput* step() const { return &input->step; }
  const int32_t* num_tokens() const { return &input->step.tokens; }
  bool few() const { return rows <= kFewRows; }
  int sms() const { return device->info().sms; }
};

inline cu::Planes take_planes(DeviceArena* arena, int64_t elements, int parts) {
  return {arena->take<cu::bf16>(elements * parts), elements, parts};
}

#define SMOE_ENQUEUE(device, name, args) SMOE_RETURN_IF_ERROR(launch(device, (device).table().name, args, #name))

// x times one matrix, or several side by side: fills in what follows from the matrix and the number of rows. Real rows
// come from args.num_tokens, null: all `rows`.
Status enqueue_linear(Device& device, int64_t rows, const DeviceMatrix& weight, cu::LinearArgs args);
// For all rows of the pass.
Status enqueue_linear(const DevicePass& pass, const DeviceMatrix& weight, cu::LinearArgs args);

}  // namespace smoe
