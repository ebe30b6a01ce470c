// Decoder.create and Decoder.addLayer: weights in.
#pragma once

#include "bindings/decoder_object.h"

namespace smoe {

Napi::Value start_create_decoder(const Napi::CallbackInfo& info);
Napi::Value start_add_layer(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder);

}  // namespace smoe
