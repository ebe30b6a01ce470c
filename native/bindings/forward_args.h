// The arguments of MoeLayer.forward and forwardSync.
#pragma once

#include "bindings/cancel_token_object.h"
#include "bindings/in_use.h"
#include "bindings/layer_call.h"

namespace smoe {

struct NativeMoeLayer;

// Bits per weight, 2 to 8, of `count` bit-nested experts; a Uint8Array.
std::vector<uint8_t> parse_expert_bits(napi_env env, napi_value value, const char* name, int64_t count);

// Parsed but not yet copied: pointers into JS memory, valid until the callback returns to JavaScript.
struct ForwardArgs {
  LayerCall call;  // out null when no array was given
  napi_value out = nullptr;
  InUse<NativeMomentumState> state;
  std::shared_ptr<CancelFlag> cancel;
  size_t hidden_bytes = 0;

  static ForwardArgs parse(const Napi::CallbackInfo& info, const NativeMoeLayer& native);
  int64_t elements() const { return call.tokens * call.layer->config.hidden; }
};

}  // namespace smoe
