#pragma once

#include "bindings/layer_call.h"
#include "bindings/tagged_object.h"
#include "layer/device_moe_layer.h"

namespace smoe {

// A packed layer, shared by the JS object and the calls that run on it.
struct NativeMoeLayer {
  MoeLayer layer;                          // without its weights where they are on a device
  std::unique_ptr<DeviceMoeLayer> device;  // null: on the CPU
  std::vector<uint64_t> counts;            // [E]; JS thread only: calls count on their own and add when they settle

  size_t bytes() const { return layer.bytes(); }
  size_t device_bytes() const { return device != nullptr ? device->bytes() : 0; }
};

class MoeLayerObject : public TaggedObject<MoeLayerObject> {
 public:
  static constexpr const char* kName = "MoeLayer";
  static constexpr napi_type_tag kTag{0x736d6f654c617965, 4};

  static Napi::Function define(Napi::Env env);
  explicit MoeLayerObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { memory_.close(env); }

  static Napi::Object make(Napi::Env env, std::shared_ptr<NativeMoeLayer> native);

 private:
  static Napi::Value create(const Napi::CallbackInfo& info);
  Napi::Value hidden(const Napi::CallbackInfo& info);
  Napi::Value expert_count(const Napi::CallbackInfo& info);
  Napi::Value slots(const Napi::CallbackInfo& info);
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value device_bytes(const Napi::CallbackInfo& info);
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value forward_sync(const Napi::CallbackInfo& info);
  Napi::Value counts(const Napi::CallbackInfo& info);
  Napi::Value reset_stats(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  const std::shared_ptr<NativeMoeLayer>& native(napi_env env) const;

  std::shared_ptr<NativeMoeLayer> layer_;
  std::vector<uint64_t> sync_counts_;  // kept between synchronous calls to spare the allocation
  ExternalMemory memory_;
};

}  // namespace smoe
