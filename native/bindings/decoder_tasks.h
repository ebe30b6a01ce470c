// Decoder.forward, step, nll and trace: tokens through a finished decoder.
#pragma once

#include "bindings/decoder_object.h"

namespace smoe {

Napi::Value start_decoder_forward(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder);
Napi::Value start_decoder_step(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder);
Napi::Value start_decoder_nll(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder);
Napi::Value start_decoder_trace(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder);

}  // namespace smoe
