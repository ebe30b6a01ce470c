// What the makers of quantized matrices share.
#pragma once

#include "bindings/async_task.h"
#include "bindings/quantized_object.h"

namespace smoe {

constexpr int64_t kMaxSide = int64_t{1} << 24;

inline constexpr const char* kQuantFormats[] = {"w8", "w4", "w4c", "w3", "w2", "w1", "wn", "t2", "t5", "f8"};

inline WeightFormat parse_format(napi_env env, napi_value value) {
  // The enum goes on from f32 and bf16 in the order of these names.
  return static_cast<WeightFormat>(static_cast<int>(WeightFormat::W8) +
                                   choice_index(env, value, "format", kQuantFormats, 10));
}

inline int64_t integer_or(napi_env env, napi_value owner, const char* key, int64_t least, int64_t most,
                          int64_t fallback) {
  const napi_value value = property(env, owner, key, "options");
  return is_nullish(env, value) ? fallback : integer(env, value, key, least, most);
}
inline bool boolean_or(napi_env env, napi_value owner, const char* key, bool fallback) {
  const napi_value value = property(env, owner, key, "options");
  return is_nullish(env, value) ? fallback : boolean(env, value, key);
}

// Ends in a QuantizedMatrix.
class MakeTask : public AsyncTask {
 protected:
  Napi::Value result(Napi::Env env) override { return QuantizedMatrixObject::make(env, std::move(made_)); }
  std::shared_ptr<NativeQuantized> made_ = std::make_shared<NativeQuantized>();
};

}  // namespace smoe
