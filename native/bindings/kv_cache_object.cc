#include "bindings/kv_cache_object.h"

#include "bindings/decoder_object.h"

namespace smoe {

NativeKvCache::NativeKvCache(const std::shared_ptr<NativeDecoder>& owner, int64_t capacity)
    : cache(owner->decoder.make_cache(capacity)), decoder(owner) {
  if (owner->device != nullptr) device = owner->device->make_cache(capacity);
}

Napi::Function KvCacheObject::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {getter<&KvCacheObject::length>("length"), getter<&KvCacheObject::capacity>("capacity"),
                      getter<&KvCacheObject::bytes>("bytes"), getter<&KvCacheObject::device_bytes>("deviceBytes"),
                      method<&KvCacheObject::truncate>("truncate"), method<&KvCacheObject::dispose>("dispose")});
}

KvCacheObject::KvCacheObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    const std::shared_ptr<NativeDecoder>& decoder = DecoderObject::from(env, info[0], "decoder").ready(env);
    const int64_t capacity = integer(env, info[1], "capacity", 1, INT32_MAX);
    cache_ = std::make_shared<NativeKvCache>(decoder, capacity);
    cache_->settle(env);
  });
}

const std::shared_ptr<NativeKvCache>& KvCacheObject::native(napi_env env) const {
  if (cache_ == nullptr) throw_error(env, Code::Disposed, "KvCache is disposed");
  return cache_;
}

Napi::Value KvCacheObject::length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->length));
}

Napi::Value KvCacheObject::capacity(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->cache.capacity()));
}

Napi::Value KvCacheObject::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cache_ == nullptr ? 0 : static_cast<double>(cache_->bytes));
}

Napi::Value KvCacheObject::device_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cache_ == nullptr ? 0 : static_cast<double>(cache_->device_bytes));
}

Napi::Value KvCacheObject::truncate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  NativeKvCache& cache = *native(env);
  if (cache.in_use) throw_error(env, Code::InvalidArgument, "cache is in use by a call that has not finished");
  cache.truncate(integer(env, info[0], "length", 0, cache.length));
  cache.settle(env);
  return env.Undefined();
}

Napi::Value KvCacheObject::dispose(const Napi::CallbackInfo& info) {
  drop(info.Env());
  return info.Env().Undefined();
}

void KvCacheObject::drop(Napi::BasicEnv env) {
  if (cache_ != nullptr) cache_->memory.close(env);
  cache_.reset();
}

}  // namespace smoe
