// JavaScript values -> native values, with the argument's name in every error. lib/ has checked types and ranges
// already; what is checked again here is whatever could corrupt memory.
//
// Order matters to callers: reading a property may run a getter, and a getter may detach an ArrayBuffer. So fetch every
// property first, and take data pointers (f32_array() and the like) last.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <string>

#include "core/dtype.h"
#include "core/status.h"

namespace smoe {

// Lengths that are only read, not demanded.
constexpr int64_t kAnyLength = -1;

// What `value` is, for messages: "undefined", "string", "Uint16Array", ...
std::string describe(napi_env env, napi_value value);
bool is_nullish(napi_env env, napi_value value);

// `object.key`; INVALID_TYPE when `object` is not an object. Absent properties are undefined.
napi_value property(napi_env env, napi_value object, const char* key, const char* object_name);

double number(napi_env env, napi_value value, const char* name);  // finite
int64_t integer(napi_env env, napi_value value, const char* name, int64_t least, int64_t most);
bool boolean(napi_env env, napi_value value, const char* name);
std::string text(napi_env env, napi_value value, const char* name);
uint32_t array_length(napi_env env, napi_value value, const char* name, uint32_t most);
napi_value element(napi_env env, napi_value array, uint32_t index);

// One of a fixed list of names; returns its index.
int choice_index(napi_env env, napi_value value, const char* name, const char* const* names, int count);
template <class E, size_t N>
E choice(napi_env env, napi_value value, const char* name, const char* const (&names)[N]) {
  return static_cast<E>(choice_index(env, value, name, names, static_cast<int>(N)));
}
Dtype float_dtype(napi_env env, napi_value value, const char* name);

struct TypedView {
  void* data = nullptr;
  int64_t length = 0;
};
// A typed array of exactly this type and length. Detached buffers have their own code, because the cure is another one.
TypedView typed_array(napi_env env, napi_value value, const char* name, napi_typedarray_type type, int64_t length);
inline float* f32_array(napi_env env, napi_value value, const char* name, int64_t length) {
  return static_cast<float*>(typed_array(env, value, name, napi_float32_array, length).data);
}
inline int32_t* i32_array(napi_env env, napi_value value, const char* name, int64_t length) {
  return static_cast<int32_t*>(typed_array(env, value, name, napi_int32_array, length).data);
}
// Float32Array for f32, Uint16Array for f16 and bf16.
inline TypedView float_array(napi_env env, napi_value value, const char* name, Dtype dtype, int64_t length) {
  return typed_array(env, value, name, dtype == Dtype::F32 ? napi_float32_array : napi_uint16_array, length);
}

// a * b within int64 and what memory can hold, or INVALID_ARGUMENT naming `what`.
int64_t element_count(napi_env env, int64_t a, int64_t b, const char* what);

// A fresh typed array, zero-filled, and its memory. Unreachable from JavaScript until it is handed out, so nobody can
// detach it: the op thread may write to `data` directly while a Reference keeps it alive.
//
// Being unreachable is not enough when its environment goes down: Node frees lent memory in a hook of its own, before
// the hook that waits for running tasks. Whoever writes off the JS thread therefore holds `memory` too.
struct NewArray {
  Napi::Value value;
  void* data = nullptr;
  std::shared_ptr<void> memory;  // null when V8 allocated it: then it lives as long as a Reference to it
};
NewArray new_array(napi_env env, napi_typedarray_type type, int64_t length);
// A fresh typed array holding a copy.
Napi::Value copied_array(napi_env env, napi_typedarray_type type, const void* data, int64_t length);
// Assignment counts as a Float64Array: exact up to 2^53.
Napi::Value counts_array(napi_env env, const uint64_t* counts, int64_t length);

}  // namespace smoe
