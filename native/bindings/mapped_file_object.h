#pragma once

#include "bindings/mapped_file.h"
#include "bindings/tagged_object.h"

namespace smoe {

class MappedFileObject : public TaggedObject<MappedFileObject> {
 public:
  static constexpr const char* kName = "MappedFile";
  static constexpr napi_type_tag kTag{0x736d6f6546696c65, 2};

  static Napi::Function define(Napi::Env env);
  explicit MappedFileObject(const Napi::CallbackInfo& info);

  // ERR_SMOE_DISPOSED after close(). Holding the pointer keeps the mapping alive through a close().
  const std::shared_ptr<MappedFile>& file(napi_env env) const;

 private:
  Napi::Value size(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  std::shared_ptr<MappedFile> file_;
};

}  // namespace smoe
