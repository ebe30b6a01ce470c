#include "bindings/calibration_object.h"

#include "bindings/cancel_token_object.h"
#include "bindings/in_use.h"
#include "bindings/layer_call.h"
#include "bindings/quantized_object.h"
#include "core/workspace_pool.h"

namespace smoe {
namespace {

class AddTask : public AsyncTask {
 public:
  AddTask(napi_env env, const std::shared_ptr<NativeCalibration>& sums, napi_value ids)
      : sums_(env, sums, "calibration"), decoder_(sums->decoder.lock()) {
    if (decoder_ == nullptr) throw_error(env, Code::Disposed, "the model of this calibration is disposed");
    const TypedView view = typed_array(env, ids, "ids", napi_int32_array, kAnyLength);
    const auto* first = static_cast<const int32_t*>(view.data);
    ids_.assign(first, first + view.length);
    if (ids_.empty()) throw_error(env, Code::InvalidArgument, "ids must hold at least one token");
    for (int32_t id : ids_) {
      if (id < 0 || id >= decoder_->decoder.vocab) throw_error(env, Code::TokenOutOfRange, "ids holds %d", id);
    }
  }

 protected:
  Status run() override {
    const KernelTable* table;
    SMOE_RETURN_IF_ERROR(active_kernels(&table));
    WorkspacePool::Lease work = WorkspacePool::process().lease();
    return sums_->sums.add(decoder_->decoder, ids_.data(), static_cast<int64_t>(ids_.size()), *table,
                           ThreadPool::process(), *work, cancel());
  }
  void finished(Napi::Env, const Status&) noexcept override { sums_.release(); }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }

 private:
  InUse<NativeCalibration> sums_;
  std::shared_ptr<NativeDecoder> decoder_;
  std::vector<int32_t> ids_;
};

class ErrorTask : public AsyncTask {
 public:
  ErrorTask(napi_env env, const std::shared_ptr<NativeCalibration>& sums, napi_value layer, napi_value expert)
      : sums_(env, sums, "calibration"), decoder_(sums->decoder.lock()) {
    if (decoder_ == nullptr) throw_error(env, Code::Disposed, "the model of this calibration is disposed");
    layer_ = sums->sums.find(static_cast<int>(integer(env, layer, "layer", 0, INT32_MAX)));
    if (layer_ == nullptr) throw_error(env, Code::InvalidArgument, "layer is not among those calibrated");
    expert_ = static_cast<size_t>(integer(env, expert, "expert", 0, static_cast<int64_t>(layer_->experts.size()) - 1));
  }
  std::shared_ptr<NativeQuantized> parts[3];  // gate, up, down
  std::vector<float> input_scale;             // empty: 1
  int64_t hidden() const { return static_cast<int64_t>(layer_->input_max.size()); }

 protected:
  Status run() override {
    const KernelTable* table;
    SMOE_RETURN_IF_ERROR(active_kernels(&table));
    const MoeLayer& moe = *decoder_->decoder.layers[static_cast<size_t>(layer_->layer)].moe;
    const auto matrix = [&](int i) { return parts[i] == nullptr ? nullptr : &parts[i]->matrix; };
    WorkspacePool::Lease work = WorkspacePool::process().lease();
    return expert_error(moe, layer_->experts[expert_], moe.experts[expert_], {matrix(0), matrix(1), matrix(2)},
                        input_scale.empty() ? nullptr : input_scale.data(), *table, ThreadPool::process(), *work,
                        cancel(), &error_, &scale_);
  }
  void finished(Napi::Env, const Status&) noexcept override { sums_.release(); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("error", error_);
    object.Set("scale", scale_);
    return object;
  }

 private:
  InUse<NativeCalibration> sums_;
  std::shared_ptr<NativeDecoder> decoder_;
  const LayerSums* layer_ = nullptr;
  size_t expert_ = 0;
  double error_ = 0, scale_ = 0;
};

}  // namespace

Napi::Function CalibrationObject::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {async_method<&CalibrationObject::add>("add"), method<&CalibrationObject::stats>("stats"),
                      async_method<&CalibrationObject::error_of>("expertError"),
                      async_method<&CalibrationObject::smoothing>("smoothing"),
                      async_method<&CalibrationObject::align_router>("alignRouter"),
                      getter<&CalibrationObject::bytes>("bytes"), method<&CalibrationObject::dispose>("dispose")});
}

CalibrationObject::CalibrationObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    CalibrationConfig config;
    if (!is_nullish(env, info[1])) {
      const auto field = [&](const char* key, int64_t least, int64_t most, int64_t fallback) {
        const napi_value value = property(env, info[1], key, "config");
        return is_nullish(env, value) ? fallback : integer(env, value, key, least, most);
      };
      config.first_layer = static_cast<int>(field("firstLayer", 0, INT32_MAX, 0));
      config.last_layer = static_cast<int>(field("lastLayer", 0, INT32_MAX, -1));
      config.samples = field("samples", 0, 1 << 20, config.samples);
    }
    const std::shared_ptr<NativeDecoder>& decoder = DecoderObject::from(env, info[0], "decoder").ready(env);
    if (decoder->device != nullptr) {
      throw_error(env, Code::InvalidArgument, "calibration reads weights on the CPU: load the model with device 'cpu'");
    }
    native_ = std::make_shared<NativeCalibration>();
    throw_if_error(env, native_->sums.init(decoder->decoder, config));
    native_->decoder = decoder;
    native_->memory.set(env, native_->sums.bytes());
  });
}

const std::shared_ptr<NativeCalibration>& CalibrationObject::native(napi_env env) const {
  if (native_ == nullptr) throw_error(env, Code::Disposed, "Calibration is disposed");
  return native_;
}

Napi::Value CalibrationObject::add(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(env, info[1]);
  return AsyncTask::start(env, std::make_shared<AddTask>(env, native(env), info[0]), std::move(cancel));
}

Napi::Value CalibrationObject::error_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  static const char* const names[] = {"gate", "up", "down"};
  std::shared_ptr<NativeQuantized> parts[3];
  for (int i = 0; i < 3; ++i) {
    const napi_value value = property(env, info[2], names[i], "replacement");
    if (!is_nullish(env, value)) parts[i] = QuantizedMatrixObject::from(env, value, names[i]).native(env);
  }
  std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(env, info[3]);
  auto task = std::make_shared<ErrorTask>(env, native(env), info[0], info[1]);
  std::move(parts, parts + 3, task->parts);
  if (!is_nullish(env, info[4])) {
    const int64_t hidden = task->hidden();
    const float* scale = f32_array(env, info[4], "inputScale", hidden);
    task->input_scale.assign(scale, scale + hidden);
  }
  return AsyncTask::start(env, std::move(task), std::move(cancel));
}

// [{ layer, tokens, counts, weights }] of every MoE layer calibrated.
Napi::Value CalibrationObject::stats(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const NativeCalibration& calibration = *native(env);
  if (calibration.in_use)
    throw_error(env, Code::InvalidArgument, "calibration is in use by a call that has not finished");
  Napi::Array result = Napi::Array::New(env);
  uint32_t index = 0;
  for (const LayerSums& layer : calibration.sums.layers) {
    const auto count = static_cast<int64_t>(layer.experts.size());
    std::vector<double> counts, weights;
    for (const ExpertSums& expert : layer.experts) {
      counts.push_back(static_cast<double>(expert.input.count));
      weights.push_back(expert.weight);
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("layer", layer.layer);
    object.Set("tokens", static_cast<double>(layer.tokens));
    object.Set("counts", copied_array(env, napi_float64_array, counts.data(), count));
    object.Set("weights", copied_array(env, napi_float64_array, weights.data(), count));
    result[index++] = object;
  }
  return result;
}

Napi::Value CalibrationObject::bytes(const Napi::CallbackInfo& info) {
  const bool free = native_ == nullptr || native_->in_use;
  return Napi::Number::New(info.Env(), free ? 0 : static_cast<double>(native_->sums.bytes()));
}

Napi::Value CalibrationObject::dispose(const Napi::CallbackInfo& info) {
  drop(info.Env());
  return info.Env().Undefined();
}

void CalibrationObject::drop(Napi::BasicEnv env) {
  if (native_ != nullptr) native_->memory.close(env);
  native_.reset();
}

}  // namespace smoe
