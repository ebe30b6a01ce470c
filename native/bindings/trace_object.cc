#include "bindings/trace_object.h"

#include "bindings/convert.h"

namespace smoe {
namespace {

Napi::Value copied(Napi::Env env, const std::vector<float>& values) {
  return copied_array(env, napi_float32_array, values.data(), static_cast<int64_t>(values.size()));
}
Napi::Value copied(Napi::Env env, const std::vector<int32_t>& values) {
  return copied_array(env, napi_int32_array, values.data(), static_cast<int64_t>(values.size()));
}

Napi::Object layer_object(Napi::Env env, const LayerTrace& trace) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("layer", trace.layer);
  result.Set("slots", trace.slots);
  result.Set("experts", trace.experts);
  result.Set("input", copied(env, trace.input));
  result.Set("residualIn", copied(env, trace.residual_in));
  result.Set("routerLogits", copied(env, trace.router_logits));
  result.Set("ids", copied(env, trace.ids));
  result.Set("weights", copied(env, trace.weights));
  result.Set("count", copied(env, trace.count));
  result.Set("output", copied(env, trace.output));
  result.Set("residualOut", copied(env, trace.residual_out));
  if (!trace.momentum_out.empty()) result.Set("momentumOut", copied(env, trace.momentum_out));
  return result;
}

}  // namespace

Napi::Value trace_object(Napi::Env env, const Napi::Value& logits, const std::vector<LayerTrace>& layers) {
  Napi::Object result = Napi::Object::New(env);
  Napi::Array list = Napi::Array::New(env, layers.size());
  for (size_t i = 0; i < layers.size(); i++) list[static_cast<uint32_t>(i)] = layer_object(env, layers[i]);
  result.Set("logits", logits);
  result.Set("layers", list);
  return result;
}

}  // namespace smoe
