#include "bindings/decoder_object.h"

#include "bindings/decoder_build.h"
#include "bindings/decoder_tasks.h"
#include "bindings/device_twin.h"

namespace smoe {

Napi::Function DecoderObject::define(Napi::Env env) {
  return DefineClass(
      env, kName,
      {StaticMethod<&DecoderObject::create>("create"), async_method<&DecoderObject::add_layer>("addLayer"),
       method<&DecoderObject::finish>("finish"), getter<&DecoderObject::bytes>("bytes"),
       getter<&DecoderObject::device>("device"), getter<&DecoderObject::device_bytes>("deviceBytes"),
       getter<&DecoderObject::device_scratch>("deviceScratch"), async_method<&DecoderObject::forward>("forward"),
       async_method<&DecoderObject::step>("step"), async_method<&DecoderObject::nll>("nll"),
       async_method<&DecoderObject::trace>("trace"), method<&DecoderObject::counts>("counts"),
       method<&DecoderObject::reset_stats>("resetStats"), method<&DecoderObject::dispose>("dispose")});
}

DecoderObject::DecoderObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  decoder_ = take_pending<NativeDecoder>(info.Env());
  decoder_->report(info.Env());
}

Napi::Object DecoderObject::make(Napi::Env env, std::shared_ptr<NativeDecoder> native) {
  return construct(env, env_data(env).decoder, std::move(native));
}

const std::shared_ptr<NativeDecoder>& DecoderObject::native(napi_env env) const {
  if (decoder_ == nullptr) throw_error(env, Code::Disposed, "Decoder is disposed");
  return decoder_;
}

const std::shared_ptr<NativeDecoder>& DecoderObject::ready(napi_env env) const {
  if (!native(env)->finished) throw_error(env, Code::InvalidArgument, "decoder is not finished: call finish() first");
  return decoder_;
}

Napi::Value DecoderObject::create(const Napi::CallbackInfo& info) {
  return guarded_async(info.Env(), [&]() -> Napi::Value { return start_create_decoder(info); });
}

Napi::Value DecoderObject::add_layer(const Napi::CallbackInfo& info) {
  const std::shared_ptr<NativeDecoder> decoder = native(info.Env());
  if (decoder->finished) throw_error(info.Env(), Code::InvalidArgument, "decoder is finished, no layer can be added");
  return start_add_layer(info, decoder);
}

Napi::Value DecoderObject::finish(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  NativeDecoder& decoder = *native(env);
  if (decoder.pending_layers > 0) {
    throw_error(env, Code::InvalidArgument, "%d addLayer() calls have not finished", decoder.pending_layers);
  }
  if (decoder.decoder.layers.empty()) throw_error(env, Code::ShapeMismatch, "decoder has no layers");
  throw_if_error(env, decoder.decoder.validate());
  decoder.counts.assign(
      static_cast<size_t>(decoder.decoder.moe_layers()) * static_cast<size_t>(decoder.decoder.max_experts()), 0);
  decoder.finished = true;
  return env.Undefined();
}

Napi::Value DecoderObject::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), decoder_ == nullptr ? 0 : static_cast<double>(decoder_->decoder.bytes()));
}

Napi::Value DecoderObject::device(const Napi::CallbackInfo& info) {
  const auto& device = native(info.Env())->device;
  return Napi::Number::New(info.Env(), device != nullptr ? device->device()->index() : kHost);
}

Napi::Value DecoderObject::device_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), decoder_ == nullptr ? 0 : static_cast<double>(decoder_->device_bytes));
}

Napi::Value DecoderObject::device_scratch(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), decoder_ == nullptr ? 0 : static_cast<double>(decoder_->device_scratch));
}

Napi::Value DecoderObject::forward(const Napi::CallbackInfo& info) {
  return start_decoder_forward(info, ready(info.Env()));
}
Napi::Value DecoderObject::step(const Napi::CallbackInfo& info) { return start_decoder_step(info, ready(info.Env())); }
Napi::Value DecoderObject::nll(const Napi::CallbackInfo& info) { return start_decoder_nll(info, ready(info.Env())); }
Napi::Value DecoderObject::trace(const Napi::CallbackInfo& info) {
  return start_decoder_trace(info, ready(info.Env()));
}

Napi::Value DecoderObject::counts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const NativeDecoder& decoder = *ready(env);
  Napi::Array result = Napi::Array::New(env);  // not const: a const array's elements are copies
  const uint64_t* row = decoder.counts.data();
  uint32_t index = 0;
  for (const DecoderLayer& layer : decoder.decoder.layers) {
    if (layer.moe == nullptr) continue;
    result[index++] = counts_array(env, row, layer.moe->config.router.experts);
    row += decoder.decoder.max_experts();
  }
  return result;
}

Napi::Value DecoderObject::reset_stats(const Napi::CallbackInfo& info) {
  std::vector<uint64_t>& counts = ready(info.Env())->counts;
  std::fill(counts.begin(), counts.end(), 0);
  return info.Env().Undefined();
}

Napi::Value DecoderObject::dispose(const Napi::CallbackInfo& info) {
  drop(info.Env());
  return info.Env().Undefined();
}

void DecoderObject::drop(Napi::BasicEnv env) {
  if (decoder_ != nullptr) decoder_->memory.close(env);
  decoder_.reset();
}

}  // namespace smoe
