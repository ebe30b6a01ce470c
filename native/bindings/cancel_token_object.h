#pragma once

#include "bindings/tagged_object.h"
#include "core/cancel.h"

namespace smoe {

class CancelTokenObject : public TaggedObject<CancelTokenObject> {
 public:
  static constexpr const char* kName = "CancelToken";
  static constexpr napi_type_tag kTag{0x736d6f6543616e63, 1};

  static Napi::Function define(Napi::Env env);
  explicit CancelTokenObject(const Napi::CallbackInfo& info);

  // The flag of an optional `cancel` argument; null when it is undefined.
  static std::shared_ptr<CancelFlag> flag_of(napi_env env, napi_value value);

 private:
  Napi::Value cancel(const Napi::CallbackInfo& info);

  std::shared_ptr<CancelFlag> flag_;
};

}  // namespace smoe
