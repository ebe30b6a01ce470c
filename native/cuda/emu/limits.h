// What the emulated device has of something. device/limits.h is the twin.
#pragma once

#include "cuda/emu/threads.h"

namespace smoe::cu {

inline size_t shared_limit(Stream stream) { return stream->options.shared_limit; }
inline int sm_count(Stream stream) { return stream->options.sms; }

}  // namespace smoe::cu
