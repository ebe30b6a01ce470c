#include "bindings/convert.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "bindings/errors.h"
#include "core/buffer.h"

namespace smoe {
namespace {

struct ArrayType {
  const char* name;
  size_t element_bytes;
};

// Indexed by napi_typedarray_type.
constexpr ArrayType kArrayTypes[] = {
    {"Int8Array", 1},    {"Uint8Array", 1},    {"Uint8ClampedArray", 1}, {"Int16Array", 2},
    {"Uint16Array", 2},  {"Int32Array", 4},    {"Uint32Array", 4},       {"Float32Array", 4},
    {"Float64Array", 8}, {"BigInt64Array", 8}, {"BigUint64Array", 8},
};
constexpr int kArrayTypeCount = sizeof kArrayTypes / sizeof kArrayTypes[0];

ArrayType array_type(napi_typedarray_type type) {
  // Newer Node versions know more types (Float16Array) than this list.
  return static_cast<int>(type) < kArrayTypeCount ? kArrayTypes[type] : ArrayType{"typed array of another type", 1};
}

bool is_detached(napi_env env, napi_value typed) {
  napi_value buffer = nullptr;
  bool detached = false;
  throw_if_failed(env, napi_get_typedarray_info(env, typed, nullptr, nullptr, nullptr, &buffer, nullptr));
  throw_if_failed(env, napi_is_detached_arraybuffer(env, buffer, &detached));
  return detached;
}

}  // namespace

std::string describe(napi_env env, napi_value value) {
  bool typed = false;
  if (napi_is_typedarray(env, value, &typed) == napi_ok && typed) {
    napi_typedarray_type type;
    throw_if_failed(env, napi_get_typedarray_info(env, value, &type, nullptr, nullptr, nullptr, nullptr));
    return array_type(type).name;
  }
  static const char* const names[] = {"undefined", "null",   "boolean",  "number",   "string",
                                      "symbol",    "object", "function", "external", "bigint"};
  napi_valuetype type;
  throw_if_failed(env, napi_typeof(env, value, &type));
  return names[type];
}

bool is_nullish(napi_env env, napi_value value) {
  napi_valuetype type;
  throw_if_failed(env, napi_typeof(env, value, &type));
  return type == napi_undefined || type == napi_null;
}

napi_value property(napi_env env, napi_value object, const char* key, const char* object_name) {
  napi_valuetype type;
  throw_if_failed(env, napi_typeof(env, object, &type));
  if (type != napi_object) {
    throw_error(env, Code::InvalidType, "%s must be an object, got %s", object_name, describe(env, object).c_str());
  }
  napi_value value;
  throw_if_failed(env, napi_get_named_property(env, object, key, &value));
  return value;
}

double number(napi_env env, napi_value value, const char* name) {
  double result;
  const napi_status status = napi_get_value_double(env, value, &result);
  if (status == napi_number_expected) {
    throw_error(env, Code::InvalidType, "%s must be a number, got %s", name, describe(env, value).c_str());
  }
  throw_if_failed(env, status);
  if (!std::isfinite(result)) throw_error(env, Code::InvalidArgument, "%s must be finite, got %g", name, result);
  return result;
}

int64_t integer(napi_env env, napi_value value, const char* name, int64_t least, int64_t most) {
  const double result = number(env, value, name);
  if (result != std::floor(result) || result < static_cast<double>(least) || result > static_cast<double>(most)) {
    throw_error(env, Code::InvalidArgument, "%s must be an integer in [%lld, %lld], got %.17g", name,
                static_cast<long long>(least), static_cast<long long>(most), result);
  }
  return static_cast<int64_t>(result);
}

bool boolean(napi_env env, napi_value value, const char* name) {
  bool result;
  const napi_status status = napi_get_value_bool(env, value, &result);
  if (status == napi_boolean_expected) {
    throw_error(env, Code::InvalidType, "%s must be a boolean, got %s", name, describe(env, value).c_str());
  }
  throw_if_failed(env, status);
  return result;
}

std::string text(napi_env env, napi_value value, const char* name) {
  size_t length;
  const napi_status status = napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  if (status == napi_string_expected) {
    throw_error(env, Code::InvalidType, "%s must be a string, got %s", name, describe(env, value).c_str());
  }
  throw_if_failed(env, status);
  std::string result(length, '\0');
  throw_if_failed(env, napi_get_value_string_utf8(env, value, &result[0], length + 1, &length));
  return result;
}

uint32_t array_length(napi_env env, napi_value value, const char* name, uint32_t most) {
  bool is_array = false;
  throw_if_failed(env, napi_is_array(env, value, &is_array));
  if (!is_array) {
    throw_error(env, Code::InvalidType, "%s must be an array, got %s", name, describe(env, value).c_str());
  }
  uint32_t length;
  throw_if_failed(env, napi_get_array_length(env, value, &length));
  if (length > most) {
    throw_error(env, Code::InvalidArgument, "%s must have at most %u elements, got %u", name, most, length);
  }
  return length;
}

napi_value element(napi_env env, napi_value array, uint32_t index) {
  napi_value value;
  throw_if_failed(env, napi_get_element(env, array, index, &value));
  return value;
}

int choice_index(napi_env env, napi_value value, const char* name, const char* const* names, int count) {
  char given[32];  // longer than every name, so that a cut-off string matches none
  size_t length;
  const napi_status status = napi_get_value_string_utf8(env, value, given, sizeof given, &length);
  if (status == napi_ok) {
    for (int i = 0; i < count; i++) {
      if (std::strlen(names[i]) == length && std::memcmp(given, names[i], length) == 0) return i;
    }
  } else if (status != napi_string_expected) {
    throw Napi::Error::New(env);
  }
  std::string expected;
  for (int i = 0; i < count; i++) expected += std::string(i > 0 ? ", '" : "'") + names[i] + "'";
  if (status == napi_string_expected) {
    throw_error(env, Code::InvalidType, "%s must be one of %s, got %s", name, expected.c_str(),
                describe(env, value).c_str());
  }
  throw_error(env, Code::InvalidArgument, "%s must be one of %s, got '%s'", name, expected.c_str(), given);
}

Dtype float_dtype(napi_env env, napi_value value, const char* name) {
  static const char* const names[] = {"f32", "f16", "bf16"};
  return choice<Dtype>(env, value, name, names);
}

TypedView typed_array(napi_env env, napi_value value, const char* name, napi_typedarray_type type, int64_t length) {
  napi_typedarray_type actual;
  size_t count;
  TypedView view;
  const napi_status status = napi_get_typedarray_info(env, value, &actual, &count, &view.data, nullptr, nullptr);
  if (status == napi_invalid_arg || (status == napi_ok && actual != type)) {
    throw_error(env, Code::InvalidType, "%s must be a %s, got %s", name, array_type(type).name,
                describe(env, value).c_str());
  }
  throw_if_failed(env, status);
  // A view on a detached buffer has length 0, so the check costs nothing in the usual case.
  if (count == 0 && is_detached(env, value)) {
    throw_error(env, Code::DetachedBuffer, "%s: its ArrayBuffer was transferred away", name);
  }
  view.length = static_cast<int64_t>(count);
  if (length != kAnyLength && view.length != length) {
    throw_error(env, Code::ShapeMismatch, "%s must have %lld elements, got %lld", name, static_cast<long long>(length),
                static_cast<long long>(view.length));
  }
  return view;
}

int64_t element_count(napi_env env, int64_t a, int64_t b, const char* what) {
  size_t elements, bytes;
  // 8: the widest element that is ever allocated for a count.
  if (a < 0 || b < 0 || !checked_product(static_cast<size_t>(a), static_cast<size_t>(b), &elements) ||
      !checked_product(elements, 8, &bytes)) {
    throw_error(env, Code::InvalidArgument, "%s: %lld x %lld elements do not fit in memory", what,
                static_cast<long long>(a), static_cast<long long>(b));
  }
  return static_cast<int64_t>(elements);
}

NewArray new_array(napi_env env, napi_typedarray_type type, int64_t length) {
  // V8 ends the process when a typed array is longer than it allows or an ArrayBuffer cannot be allocated. So lengths
  // are checked here, and memory that might be refused is allocated by us and lent to V8.
  constexpr int64_t kMaxLength = UINT32_MAX;
  constexpr size_t kLendFrom = size_t{1} << 20;
  if (length > kMaxLength) {
    throw_error(env, Code::OutOfMemory, "an array of %lld elements is longer than JavaScript allows",
                static_cast<long long>(length));
  }
  const size_t bytes = static_cast<size_t>(length) * array_type(type).element_bytes;
  napi_value buffer = nullptr, typed = nullptr;
  NewArray result;
  if (bytes >= kLendFrom) {
    using Memory = std::shared_ptr<void>;
    result.data = std::calloc(bytes, 1);
    if (result.data == nullptr) throw_error(env, Code::OutOfMemory, "cannot allocate an array of %zu bytes", bytes);
    result.memory = Memory(result.data, std::free);
    auto lent = std::make_unique<Memory>(result.memory);
    const napi_status status = napi_create_external_arraybuffer(
        env, result.data, bytes, [](napi_env, void*, void* hint) { delete static_cast<Memory*>(hint); }, lent.get(),
        &buffer);
    if (status == napi_ok) {
      lent.release();
    } else {
      result.memory.reset();
    }
    // Embedders with a V8 sandbox (Electron) take no outside memory.
    if (status != napi_no_external_buffers_allowed) throw_if_failed(env, status);
  }
  if (buffer == nullptr) throw_if_failed(env, napi_create_arraybuffer(env, bytes, &result.data, &buffer));
  throw_if_failed(env, napi_create_typedarray(env, type, static_cast<size_t>(length), buffer, 0, &typed));
  result.value = Napi::Value(env, typed);
  return result;
}

Napi::Value copied_array(napi_env env, napi_typedarray_type type, const void* data, int64_t length) {
  const NewArray array = new_array(env, type, length);
  if (length > 0) std::memcpy(array.data, data, static_cast<size_t>(length) * array_type(type).element_bytes);
  return array.value;
}

Napi::Value counts_array(napi_env env, const uint64_t* counts, int64_t length) {
  const NewArray array = new_array(env, napi_float64_array, length);
  for (int64_t i = 0; i < length; i++) static_cast<double*>(array.data)[i] = static_cast<double>(counts[i]);
  return array.value;
}

}  // namespace smoe
