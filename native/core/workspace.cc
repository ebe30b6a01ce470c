#include "core/workspace.h"

namespace smoe {

Status Workspace::reserve(size_t bytes) {
  used_ = 0;
  if (bytes <= buffer_.bytes()) return {};
  return buffer_.allocate(bytes);
}

Workspace& Workspace::nested() {
  if (nested_ == nullptr) nested_ = std::make_unique<Workspace>();
  return *nested_;
}

void Workspace::release() {
  buffer_.release();
  used_ = 0;
  nested_.reset();
}

}  // namespace smoe
