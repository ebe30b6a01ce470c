// One flat JSON object, for a line of results.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>

namespace smoe::bench {

class Json {
 public:
  Json& add(const char* key, const std::string& value) {
    std::string quoted = "\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return raw(key, quoted + '"');
  }
  Json& add(const char* key, const char* value) { return add(key, std::string(value)); }
  Json& add(const char* key, bool value) { return raw(key, value ? "true" : "false"); }
  Json& add(const char* key, int value) { return raw(key, std::to_string(value)); }
  Json& add(const char* key, int64_t value) { return raw(key, std::to_string(value)); }
  Json& add(const char* key, double value) {
    char number[40];
    std::snprintf(number, sizeof number, "%.6g", value);
    return raw(key, std::isfinite(value) ? number : "null");
  }
  std::string text() const { return "{" + members_ + "}"; }

 private:
  Json& raw(const char* key, const std::string& value) {
    if (!members_.empty()) members_ += ", ";
    members_ += "\"" + std::string(key) + "\": " + value;
    return *this;
  }
  std::string members_;
};

}  // namespace smoe::bench
