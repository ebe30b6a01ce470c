// Functions about the machine and the process rather than about a model.
#pragma once

#include <napi.h>

namespace smoe {

Napi::Value runtime_info(const Napi::CallbackInfo& info);
Napi::Value set_threads(const Napi::CallbackInfo& info);
Napi::Value set_isa(const Napi::CallbackInfo& info);
Napi::Value measure_ceilings_async(const Napi::CallbackInfo& info);
Napi::Value to_f32_array(const Napi::CallbackInfo& info);
Napi::Value from_f32_array(const Napi::CallbackInfo& info);
Napi::Array error_codes(Napi::Env env);

}  // namespace smoe
