#pragma once

#include "bindings/tagged_object.h"
#include "decoder/device_decoder.h"

namespace smoe {

struct NativeDecoder {
  Decoder decoder;  // layers are added on the JS thread; constant once `finished`; on a device without its weights
  std::unique_ptr<DeviceDecoder> device;  // null: on the CPU
  size_t device_bytes = 0;                // what JavaScript sees; the op thread may be adding a layer
  size_t device_scratch = 0;              // kept between calls, as of the last one that ended
  bool finished = false;
  int pending_layers = 0;
  std::vector<uint64_t> counts;  // [MoE layers, max experts]; JS thread only
  ExternalMemory memory;
  // Scratch of step(), touched by the op thread only, which runs one call at a time.
  Sampler sampler;
  std::vector<float> step_logits;

  // JS thread, after weights were added or a call ended.
  void report(Napi::BasicEnv env) { memory.set(env, decoder.bytes() + device_bytes + device_scratch); }
};

class DecoderObject : public TaggedObject<DecoderObject> {
 public:
  static constexpr const char* kName = "Decoder";
  static constexpr napi_type_tag kTag{0x736d6f654465636f, 7};

  static Napi::Function define(Napi::Env env);
  explicit DecoderObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { drop(env); }

  static Napi::Object make(Napi::Env env, std::shared_ptr<NativeDecoder> native);
  const std::shared_ptr<NativeDecoder>& native(napi_env env) const;
  // Refuses before finish().
  const std::shared_ptr<NativeDecoder>& ready(napi_env env) const;

 private:
  static Napi::Value create(const Napi::CallbackInfo& info);
  Napi::Value add_layer(const Napi::CallbackInfo& info);
  Napi::Value finish(const Napi::CallbackInfo& info);
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value device_bytes(const Napi::CallbackInfo& info);
  Napi::Value device_scratch(const Napi::CallbackInfo& info);
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value nll(const Napi::CallbackInfo& info);
  Napi::Value trace(const Napi::CallbackInfo& info);
  Napi::Value counts(const Napi::CallbackInfo& info);
  Napi::Value reset_stats(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  void drop(Napi::BasicEnv env);

  std::shared_ptr<NativeDecoder> decoder_;
};

}  // namespace smoe
