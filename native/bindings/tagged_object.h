// Base of the JS-visible classes. Adds to Napi::ObjectWrap what it leaves open:
//   - a type tag, so that an object of another class is refused instead of being read as the wrong C++ type (V8 checks
//     the receiver of methods, but neither that of getters nor any argument);
//   - guards, so that every exception carries a code.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>

#include "bindings/convert.h"
#include "bindings/env_data.h"
#include "bindings/errors.h"

namespace smoe {

// T declares: static constexpr const char* kName; static constexpr napi_type_tag kTag.
template <class T>
class TaggedObject : public Napi::ObjectWrap<T> {
 public:
  using Member = Napi::Value (T::*)(const Napi::CallbackInfo&);
  using Property = Napi::ClassPropertyDescriptor<T>;

  explicit TaggedObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<T>(info) {
    throw_if_failed(info.Env(), napi_type_tag_object(info.Env(), info.This(), &T::kTag));
  }

  static bool is_instance(napi_env env, napi_value value) {
    napi_valuetype type;
    bool tagged = false;
    throw_if_failed(env, napi_typeof(env, value, &type));
    if (type != napi_object) return false;
    throw_if_failed(env, napi_check_object_type_tag(env, value, &T::kTag, &tagged));
    return tagged;
  }
  // The native side of an argument.
  static T& from(napi_env env, napi_value value, const char* name) {
    if (!is_instance(env, value)) {
      throw_error(env, Code::InvalidType, "%s must be a %s, got %s", name, T::kName, describe(env, value).c_str());
    }
    return *T::Unwrap(Napi::Object(env, value));
  }

 protected:
  template <Member member>
  static Property method(const char* name) {
    return T::InstanceMethod(name, static_cast<Member>(&TaggedObject::template call<member>), napi_default_method);
  }
  template <Member member>
  static Property async_method(const char* name) {
    return T::InstanceMethod(name, static_cast<Member>(&TaggedObject::template call_async<member>),
                             napi_default_method);
  }
  template <Member member>
  static Property getter(const char* name) {
    return T::InstanceAccessor(name, static_cast<Member>(&TaggedObject::template call_getter<member>), nullptr,
                               napi_default_jsproperty);
  }

  // Only native code constructs T: `new T()` from JavaScript finds nothing pending.
  static Napi::Object construct(Napi::Env env, const Napi::FunctionReference& constructor,
                                std::shared_ptr<void> native) {
    EnvData& data = env_data(env);
    data.pending_tag = &T::kTag;
    data.pending = std::move(native);
    return constructor.New({});
  }
  template <class Native>
  static std::shared_ptr<Native> take_pending(Napi::Env env) {
    EnvData& data = env_data(env);
    std::shared_ptr<void> native = std::exchange(data.pending, nullptr);
    if (native == nullptr || data.pending_tag != &T::kTag) {
      throw_error(env, Code::InvalidType, "%s has no public constructor, use %s.create()", T::kName, T::kName);
    }
    return std::static_pointer_cast<Native>(std::move(native));
  }

 private:
  template <Member member>
  Napi::Value call(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return (static_cast<T*>(this)->*member)(info); });
  }
  template <Member member>
  Napi::Value call_async(const Napi::CallbackInfo& info) {
    return guarded_async(info.Env(), [&] { return (static_cast<T*>(this)->*member)(info); });
  }
  template <Member member>
  Napi::Value call_getter(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return (from(info.Env(), info.This(), "this").*member)(info); });
  }
};

// Native memory that V8 cannot see but should count, given back by dispose() or the finalizer, whichever is first. A
// call that ends later must not report again.
class ExternalMemory {
 public:
  void set(Napi::BasicEnv env, size_t bytes) {
    if (!closed_) report(env, static_cast<int64_t>(bytes));
  }
  void close(Napi::BasicEnv env) {
    report(env, 0);
    closed_ = true;
  }

 private:
  void report(Napi::BasicEnv env, int64_t bytes) {
    if (bytes != reported_) Napi::MemoryManagement::AdjustExternalMemory(env, bytes - reported_);
    reported_ = bytes;
  }

  int64_t reported_ = 0;
  bool closed_ = false;
};

}  // namespace smoe
