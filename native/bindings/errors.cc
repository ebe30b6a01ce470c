#include "bindings/errors.h"

#include <cstdarg>
#include <cstdio>
#include <exception>

namespace smoe {

Napi::Error js_error(napi_env env, const Status& status) {
  const Napi::String message = Napi::String::New(env, status.message());
  const Napi::String code = Napi::String::New(env, code_name(status.code()));
  napi_value error = nullptr;
  if (status.code() == Code::InvalidType) {
    throw_if_failed(env, napi_create_type_error(env, code, message, &error));
  } else if (status.code() == Code::InvalidArgument) {
    throw_if_failed(env, napi_create_range_error(env, code, message, &error));
  } else {
    throw_if_failed(env, napi_create_error(env, code, message, &error));
  }
  return Napi::Error(env, error);
}

void throw_error(napi_env env, Code code, const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw js_error(env, Status(code, text));
}

Status status_of_current_exception() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    // Short enough for the small-string buffer: building this message must not allocate.
    return Status(Code::OutOfMemory, "out of memory");
  } catch (const std::exception& exception) {
    return error(Code::Internal, "unexpected native exception: %s", exception.what());
  } catch (...) {
    return Status(Code::Internal, "unexpected native exception");
  }
}

}  // namespace smoe
