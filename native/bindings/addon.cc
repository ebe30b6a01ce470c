// Everything that smoe.node exports; binding.d.ts is the contract, scripts/check-binding.mjs compares the two.
#include <napi.h>

#include "bindings/calibration_object.h"
#include "bindings/cancel_token_object.h"
#include "bindings/cuda_functions.h"
#include "bindings/decoder_object.h"
#include "bindings/env_data.h"
#include "bindings/kv_cache_object.h"
#include "bindings/mapped_file_object.h"
#include "bindings/moe_layer_object.h"
#include "bindings/momentum_state_object.h"
#include "bindings/quantized_object.h"
#include "bindings/router_object.h"
#include "bindings/runtime_functions.h"

namespace smoe {
namespace {

using Callback = Napi::Value (*)(const Napi::CallbackInfo&);

template <Callback callback>
void function(Napi::Object exports, const char* name) {
  const auto wrapped = [](const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return callback(info); });
  };
  exports.Set(name, Napi::Function::New(exports.Env(), wrapped, name));
}

template <Callback callback>
void async_function(Napi::Object exports, const char* name) {
  const auto wrapped = [](const Napi::CallbackInfo& info) {
    return guarded_async(info.Env(), [&] { return callback(info); });
  };
  exports.Set(name, Napi::Function::New(exports.Env(), wrapped, name));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  EnvData& data = create_env_data(env);
  data.moe_layer = Napi::Persistent(MoeLayerObject::define(env));
  data.decoder = Napi::Persistent(DecoderObject::define(env));
  data.quantized_matrix = Napi::Persistent(QuantizedMatrixObject::define(env));

  exports.Set("MappedFile", MappedFileObject::define(env));
  exports.Set("CancelToken", CancelTokenObject::define(env));
  exports.Set("Router", RouterObject::define(env));
  exports.Set("MomentumState", MomentumStateObject::define(env));
  exports.Set("MoeLayer", data.moe_layer.Value());
  exports.Set("KvCache", KvCacheObject::define(env));
  exports.Set("Decoder", data.decoder.Value());
  exports.Set("QuantizedMatrix", data.quantized_matrix.Value());
  exports.Set("Calibration", CalibrationObject::define(env));

  function<route_logits_sync>(exports, "routeSync");
  async_function<route_logits>(exports, "route");
  function<to_f32_array>(exports, "toF32");
  function<from_f32_array>(exports, "fromF32");
  async_function<measure_ceilings_async>(exports, "measureCeilings");
  function<runtime_info>(exports, "runtimeInfo");
  function<set_threads>(exports, "setThreads");
  function<set_isa>(exports, "setIsa");
  function<set_cuda_library_path>(exports, "setCudaLibrary");
  async_function<cuda_info>(exports, "cudaInfo");
  exports.Set("errorCodes", error_codes(env));
  return exports;
}

}  // namespace
}  // namespace smoe

static Napi::Object smoe_init(Napi::Env env, Napi::Object exports) { return smoe::init(env, exports); }
NODE_API_MODULE(smoe, smoe_init)
