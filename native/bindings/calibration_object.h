#pragma once

#include "bindings/decoder_object.h"
#include "prepare/calibration.h"

namespace smoe {

struct NativeCalibration {
  Calibration sums;
  std::weak_ptr<NativeDecoder> decoder;  // weak: sums must not keep a disposed model's weights
  ExternalMemory memory;
  bool in_use = false;
};

class CalibrationObject : public TaggedObject<CalibrationObject> {
 public:
  static constexpr const char* kName = "Calibration";
  static constexpr napi_type_tag kTag{0x736d6f6543616c69, 8};

  static Napi::Function define(Napi::Env env);
  explicit CalibrationObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { drop(env); }

  const std::shared_ptr<NativeCalibration>& native(napi_env env) const;

 private:
  Napi::Value add(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value error_of(const Napi::CallbackInfo& info);
  Napi::Value smoothing(const Napi::CallbackInfo& info);     // smoothing_tasks.cc
  Napi::Value align_router(const Napi::CallbackInfo& info);  // smoothing_tasks.cc
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  void drop(Napi::BasicEnv env);

  std::shared_ptr<NativeCalibration> native_;
};

}  // namespace smoe
