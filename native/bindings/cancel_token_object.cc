#include "bindings/cancel_token_object.h"

namespace smoe {

Napi::Function CancelTokenObject::define(Napi::Env env) {
  return DefineClass(env, kName, {method<&CancelTokenObject::cancel>("cancel")});
}

CancelTokenObject::CancelTokenObject(const Napi::CallbackInfo& info)
    : TaggedObject(info), flag_(std::make_shared<CancelFlag>()) {}

std::shared_ptr<CancelFlag> CancelTokenObject::flag_of(napi_env env, napi_value value) {
  return is_nullish(env, value) ? nullptr : from(env, value, "cancel").flag_;
}

Napi::Value CancelTokenObject::cancel(const Napi::CallbackInfo& info) {
  flag_->set.store(true);
  return info.Env().Undefined();
}

}  // namespace smoe
