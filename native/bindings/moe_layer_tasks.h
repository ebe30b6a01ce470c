// The asynchronous calls of MoeLayer.
#pragma once

#include "bindings/forward_args.h"
#include "bindings/moe_layer_object.h"

namespace smoe {

Napi::Value start_create_moe_layer(const Napi::CallbackInfo& info);
Napi::Value start_moe_forward(const Napi::CallbackInfo& info, std::shared_ptr<NativeMoeLayer> layer, ForwardArgs args);

}  // namespace smoe
