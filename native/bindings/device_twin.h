// What layers and decoders on a CUDA device have in common: opening the device, and letting go of the weights in host
// memory once they are on it.
#pragma once

#include <napi.h>

#include <memory>

#include "decoder/decoder.h"
#include "device/device.h"

namespace smoe {

// In place of the index of a CUDA device: the CPU, and the first usable device or else the CPU.
constexpr int kHost = -1, kAutoDevice = -2;

// An optional argument: an index, kHost (the default) or kAutoDevice.
int device_argument(napi_env env, napi_value value);
// Null: the CPU. For the op thread, because the first use of a device takes its time. An emulation is never chosen by
// itself, only where an index asks for it.
Status open_device(int wanted, std::shared_ptr<Device>* out);

// Shapes stay, for checks and messages, as do vectors, which are small.
void drop_elements(MoeLayer& layer);
void drop_elements(DecoderLayer& layer);
void drop_ends(Decoder& decoder);

}  // namespace smoe
