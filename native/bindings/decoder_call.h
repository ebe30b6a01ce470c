// One pass through a decoder, on the CPU or on its device, on whichever thread runs it.
#pragma once

#include "bindings/decoder_object.h"
#include "bindings/kv_cache_object.h"

namespace smoe {

struct DecoderCall {
  NativeDecoder* decoder = nullptr;
  NativeKvCache* cache = nullptr;  // null: a temporary one
  Decoder::Forward args;           // its cache is not read

  Status forward();
  // The tokens, then one drawn from the last logits. NonFiniteInput, and the cache as it was, when they hold no number.
  Status step(const Sampling& sampling, int32_t* token);
};

}  // namespace smoe
