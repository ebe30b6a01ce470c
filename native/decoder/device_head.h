// Final norm, logits, negative log-likelihoods and the next token of some rows: what head.cc and sampler.cc do.
#pragma once

#include "decoder/device_rows.h"
#include "decoder/head.h"

namespace smoe {

struct DeviceHeadArgs {
  HeadArgs wanted;                      // of these rows; x on the device, all else on the host
  const int32_t* targets = nullptr;     // wanted.targets on the device
  int32_t* token = nullptr;             // on the device: drawn from the last row's logits; null: not wanted
  const cu::StepInput* step = nullptr;  // with token
};

// Scratch for `rows` rows, whatever is wanted of them.
size_t head_bytes(const DeviceModel& model, int64_t rows);
// Launches, and copies to the host that arrive when the device is next synchronized: without those it can be captured.
Status enqueue_head(const DeviceModel& model, const DeviceHeadArgs& args, DeviceArena scratch);

}  // namespace smoe
