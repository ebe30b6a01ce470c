#pragma once

#include "bindings/tagged_object.h"
#include "formats/quantized.h"
#include "prepare/quantize.h"

namespace smoe {

// A quantized matrix on its way between a checkpoint, a quantizer and a layer. Constant once made.
struct NativeQuantized {
  QuantizedMatrix matrix;
  QuantizeReport report;
  ExternalMemory memory;
};

class QuantizedMatrixObject : public TaggedObject<QuantizedMatrixObject> {
 public:
  static constexpr const char* kName = "QuantizedMatrix";
  static constexpr napi_type_tag kTag{0x736d6f65516d6174, 9};

  static Napi::Function define(Napi::Env env);
  explicit QuantizedMatrixObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { drop(env); }

  static Napi::Object make(Napi::Env env, std::shared_ptr<NativeQuantized> native);
  const std::shared_ptr<NativeQuantized>& native(napi_env env) const;

 private:
  static Napi::Value quantize(const Napi::CallbackInfo& info);
  static Napi::Value from_parts(const Napi::CallbackInfo& info);
  static Napi::Value import(const Napi::CallbackInfo& info);
  Napi::Value format(const Napi::CallbackInfo& info);
  Napi::Value rows(const Napi::CallbackInfo& info);
  Napi::Value cols(const Napi::CallbackInfo& info);
  Napi::Value group(const Napi::CallbackInfo& info);
  Napi::Value report(const Napi::CallbackInfo& info);
  Napi::Value parts(const Napi::CallbackInfo& info);
  Napi::Value dequantize(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  void drop(Napi::BasicEnv env);

  std::shared_ptr<NativeQuantized> native_;
};

}  // namespace smoe
