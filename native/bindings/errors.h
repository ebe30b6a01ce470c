// Status -> JavaScript errors, and the guards that every callback runs under: no C++ exception may leave a callback
// without a code, because node-addon-api would turn it into an anonymous Error or, outside a callback, terminate.
#pragma once

#include <napi.h>

#include <new>
#include <utility>

#include "core/status.h"

namespace smoe {

// TypeError for InvalidType, RangeError for InvalidArgument, Error for the rest; `code` is set on all.
Napi::Error js_error(napi_env env, const Status& status);

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
[[noreturn]] void
throw_error(napi_env env, Code code, const char* format, ...);

inline void throw_if_error(napi_env env, const Status& status) {
  if (!status.ok()) throw js_error(env, status);
}
// For direct Node-API calls: throws whatever is pending, or the failure itself.
inline void throw_if_failed(napi_env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

// The exception in flight as a Status; for code that runs outside JavaScript.
Status status_of_current_exception() noexcept;

// Runs a synchronous callback. Napi::Error passes through, everything else gets a code.
template <class F>
auto guarded(napi_env env, F&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw js_error(env, status_of_current_exception());
  }
}

// Runs a callback that returns a promise. Bad arguments reject as well: a function that sometimes throws and
// sometimes rejects needs two error paths at every call.
template <class F>
Napi::Value guarded_async(napi_env env, F&& body) {
  try {
    return guarded(env, std::forward<F>(body));
  } catch (const Napi::Error& error) {
    Napi::Promise::Deferred deferred(env);
    deferred.Reject(error.Value());
    return deferred.Promise();
  }
}

}  // namespace smoe
