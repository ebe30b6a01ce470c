// Reads the fields of one JavaScript object by key, naming object and key in every error.
#pragma once

#include <napi.h>

#include <string>

#include "bindings/convert.h"

namespace smoe {

struct Fields {
  napi_env env;
  napi_value object;
  const std::string& name;

  napi_value field(const char* key) const { return property(env, object, key, name.c_str()); }
  int64_t whole(const char* key, int64_t least, int64_t most) const {
    return integer(env, field(key), (name + "." + key).c_str(), least, most);
  }
  float real(const char* key) const { return static_cast<float>(number(env, field(key), (name + "." + key).c_str())); }
  float real_or(const char* key, float otherwise) const {
    const napi_value value = field(key);
    if (is_nullish(env, value)) return otherwise;
    return static_cast<float>(number(env, value, (name + "." + key).c_str()));
  }
};

}  // namespace smoe
