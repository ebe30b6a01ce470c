#include "core/status.h"

#include <cstdarg>
#include <cstdio>

namespace smoe {

const char* code_name(Code code) {
  switch (code) {
    case Code::Ok:
      return "OK";
#define SMOE_ERROR(name, text) \
  case Code::name:             \
    return text;
#include "core/error_codes.def"
#undef SMOE_ERROR
  }
  return "ERR_SMOE_INTERNAL";
}

Status error(Code code, const char* format, ...) {
  char buffer[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(buffer, sizeof buffer, format, args);
  va_end(args);
  return Status(code, buffer);
}

}  // namespace smoe
