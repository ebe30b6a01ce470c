#pragma once

#include <memory>

#include "bindings/errors.h"

namespace smoe {

// Marks a state (KV cache, momentum) as taken by a call from its start to its end. A second call would find positions
// or depths that depend on timing, so it is refused. JS thread only; Native has a `bool in_use`.
template <class Native>
class InUse {
 public:
  InUse() = default;
  InUse(napi_env env, std::shared_ptr<Native> native, const char* name) {
    if (native->in_use) {
      throw_error(env, Code::InvalidArgument, "%s is in use by a call that has not finished", name);
    }
    native_ = std::move(native);
    native_->in_use = true;
  }
  ~InUse() { release(); }
  InUse(InUse&&) noexcept = default;
  InUse& operator=(InUse&& other) noexcept {
    release();
    native_ = std::move(other.native_);
    return *this;
  }

  void release() noexcept {
    if (native_ != nullptr) native_->in_use = false;
    native_.reset();
  }
  Native* get() const { return native_.get(); }
  Native* operator->() const { return native_.get(); }

 private:
  std::shared_ptr<Native> native_;
};

}  // namespace smoe
