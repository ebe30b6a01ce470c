#pragma once

#include <napi.h>

#include <vector>

#include "decoder/decoder.h"

namespace smoe {

// { logits, layers: NativeLayerTrace[] }. Copies: a trace is for looking at, not for serving.
Napi::Value trace_object(Napi::Env env, const Napi::Value& logits, const std::vector<LayerTrace>& layers);

}  // namespace smoe
