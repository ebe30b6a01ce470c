#pragma once

#include "bindings/tagged_object.h"
#include "decoder/device_decoder.h"

namespace smoe {

struct NativeDecoder;

struct NativeKvCache {
  KvCache cache;                          // holds nothing where the decoder is on a device
  std::unique_ptr<DeviceKvCache> device;  // null: on the CPU
  std::weak_ptr<NativeDecoder> decoder;   // weak: a forgotten cache must not keep a disposed model's weights
  ExternalMemory memory;
  bool in_use = false;
  // What JavaScript sees; the op thread may be changing `cache` itself.
  int64_t length = 0;
  size_t bytes = 0, device_bytes = 0;

  // For a decoder that is ready.
  NativeKvCache(const std::shared_ptr<NativeDecoder>& owner, int64_t capacity);
  int64_t used() const { return device != nullptr ? device->length() : cache.length(); }
  void truncate(int64_t to) {
    if (device != nullptr) {
      device->truncate(to);
    } else {
      cache.truncate(to);
    }
  }
  // JS thread, while no call uses the cache.
  void settle(Napi::BasicEnv env) {
    length = used();
    bytes = cache.bytes();
    device_bytes = device != nullptr ? device->bytes() : 0;
    memory.set(env, bytes + device_bytes);
  }
};

class KvCacheObject : public TaggedObject<KvCacheObject> {
 public:
  static constexpr const char* kName = "KvCache";
  static constexpr napi_type_tag kTag{0x736d6f654b764361, 6};

  static Napi::Function define(Napi::Env env);
  explicit KvCacheObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { drop(env); }

  const std::shared_ptr<NativeKvCache>& native(napi_env env) const;

 private:
  Napi::Value length(const Napi::CallbackInfo& info);
  Napi::Value capacity(const Napi::CallbackInfo& info);
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value device_bytes(const Napi::CallbackInfo& info);
  Napi::Value truncate(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  void drop(Napi::BasicEnv env);

  std::shared_ptr<NativeKvCache> cache_;
};

}  // namespace smoe
