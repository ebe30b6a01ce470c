// The feed-forward of a layer without experts on a device: what dense_ffn.cc does.
#pragma once

#include "decoder/device_pass.h"
#include "decoder/device_weights.h"

namespace smoe {

size_t dense_bytes(int64_t units, Precision precision, int64_t rows);  // units: DeviceDense::width
// x += ffn(input).
Status enqueue_dense(const DevicePass& pass, const DeviceDense& dense, Precision precision, const cu::Planes& input,
                     float* x, DeviceArena scratch);

}  // namespace smoe
