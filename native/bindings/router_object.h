#pragma once

#include "bindings/router_config.h"
#include "bindings/tagged_object.h"
#include "formats/packed_matrix.h"

namespace smoe {

struct NativeRouter {
  RouterArgs args;
  PackedMatrix weight;      // [E, H]
  std::vector<float> bias;  // [E] or empty
};

class RouterObject : public TaggedObject<RouterObject> {
 public:
  static constexpr const char* kName = "Router";
  static constexpr napi_type_tag kTag{0x736d6f65526f7574, 5};

  static Napi::Function define(Napi::Env env);
  explicit RouterObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { memory_.close(env); }

 private:
  Napi::Value route(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<NativeRouter> router_;
  ExternalMemory memory_;
};

// route() and routeSync(): logits given.
Napi::Value route_logits(const Napi::CallbackInfo& info);
Napi::Value route_logits_sync(const Napi::CallbackInfo& info);

}  // namespace smoe
