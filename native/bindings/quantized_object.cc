#include "bindings/quantized_object.h"

#include "bindings/calibration_object.h"
#include "bindings/cancel_token_object.h"
#include "bindings/in_use.h"
#include "bindings/quantized_task.h"
#include "bindings/tensor_source.h"
#include "prepare/import.h"
#include "prepare/smoothing.h"

namespace smoe {
namespace {

size_t memory_of(const QuantizedMatrix& m) {
  size_t bytes = m.codes.size() + (m.scales.size() + m.zeros.size()) * sizeof(float);
  for (const QuantizedMatrix::Plane& plane : m.planes) bytes += plane.bits.size() + plane.scales.size() * sizeof(float);
  return bytes;
}

class QuantizeTask : public MakeTask {
 public:
  TensorSource source;
  QuantizeOptions options;
  InUse<NativeCalibration> calibration;
  const LayerSums* layer = nullptr;
  int64_t expert = 0;
  bool units = false;
  double blend = 0;
  std::vector<float> input_scale, row_scale;

 protected:
  Status run() override {
    std::vector<float> values;
    SMOE_RETURN_IF_ERROR(source.values(&values));
    const int64_t rows = source.rows(), cols = source.cols();
    source = TensorSource();
    if (!input_scale.empty() || !row_scale.empty()) {
      for (int64_t i = 0; i < rows * cols; ++i) {
        float& value = values[static_cast<size_t>(i)];
        if (!input_scale.empty()) value *= input_scale[static_cast<size_t>(i % cols)];
        if (!row_scale.empty()) value *= row_scale[static_cast<size_t>(i / cols)];
      }
    }
    OuterSum blended, scaled;
    const OuterSum* hessian = nullptr;
    if (layer != nullptr) {
      const ExpertSums& sums = layer->experts[static_cast<size_t>(expert)];
      hessian = units ? &sums.units : &sums.input;
      if (!units && blend > 0) {
        SMOE_RETURN_IF_ERROR(blend_with_layer(*layer, expert, blend, &blended));
        hessian = &blended;
      }
      if (!input_scale.empty() && hessian->size == cols) {
        SMOE_RETURN_IF_ERROR(scale_inputs(*hessian, input_scale.data(), &scaled));
        hessian = &scaled;
      }
      if (hessian->count == 0 && options.method != QuantizeMethod::Gptq) hessian = nullptr;
    }
    return quantize(values.data(), rows, cols, options, hessian, ThreadPool::process(), cancel(), &made_->matrix,
                    &made_->report);
  }
  void finished(Napi::Env, const Status&) noexcept override { calibration.release(); }
};

void read_scale(napi_env env, napi_value options, const char* name, int64_t count, std::vector<float>* out) {
  const napi_value value = property(env, options, name, "options");
  if (is_nullish(env, value)) return;
  const float* values = f32_array(env, value, name, count);
  out->assign(values, values + count);
}

class ImportTask : public MakeTask {
 public:
  ImportOptions options;
  RawTensors tensors;

 protected:
  Status run() override { return import_quantized(options, tensors, &made_->matrix); }
};

QuantizeOptions parse_options(napi_env env, napi_value value) {
  static const char* const methods[] = {"rtn", "mse", "hqq", "gptq"};
  QuantizeOptions options;
  options.format = parse_format(env, property(env, value, "format", "options"));
  options.method = choice<QuantizeMethod>(env, property(env, value, "method", "options"), "method", methods);
  options.group = integer_or(env, value, "group", 0, kMaxSide, 0);
  options.symmetric = boolean_or(env, value, "symmetric", true);
  options.planes = static_cast<int>(integer_or(env, value, "planes", 0, 6, 0));
  options.codebook = static_cast<int>(integer_or(env, value, "codebook", 0, 2, 0));
  options.act_order = boolean_or(env, value, "actOrder", false);
  options.sweeps = static_cast<int>(integer_or(env, value, "sweeps", 0, 1000, options.sweeps));
  const napi_value damping = property(env, value, "damping", "options");
  if (!is_nullish(env, damping)) options.damping = number(env, damping, "damping");
  return options;
}

}  // namespace

Napi::Function QuantizedMatrixObject::define(Napi::Env env) {
  return DefineClass(
      env, kName,
      {StaticMethod<&QuantizedMatrixObject::quantize>("quantize"),
       StaticMethod<&QuantizedMatrixObject::from_parts>("from"), StaticMethod<&QuantizedMatrixObject::import>("import"),
       getter<&QuantizedMatrixObject::format>("format"), getter<&QuantizedMatrixObject::rows>("rows"),
       getter<&QuantizedMatrixObject::cols>("cols"), getter<&QuantizedMatrixObject::group>("group"),
       getter<&QuantizedMatrixObject::report>("report"), method<&QuantizedMatrixObject::parts>("parts"),
       method<&QuantizedMatrixObject::dequantize>("dequantize"), method<&QuantizedMatrixObject::dispose>("dispose")});
}

QuantizedMatrixObject::QuantizedMatrixObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  native_ = take_pending<NativeQuantized>(info.Env());
  native_->memory.set(info.Env(), memory_of(native_->matrix));
}

Napi::Object QuantizedMatrixObject::make(Napi::Env env, std::shared_ptr<NativeQuantized> native) {
  return construct(env, env_data(env).quantized_matrix, std::move(native));
}

const std::shared_ptr<NativeQuantized>& QuantizedMatrixObject::native(napi_env env) const {
  if (native_ == nullptr) throw_error(env, Code::Disposed, "QuantizedMatrix is disposed");
  return native_;
}

// quantize(source, options, { calibration, layer, expert, part, blend } | undefined, cancel)
Napi::Value QuantizedMatrixObject::quantize(const Napi::CallbackInfo& info) {
  return guarded_async(info.Env(), [&]() -> Napi::Value {
    static const char* const parts[] = {"input", "units"};
    const Napi::Env env = info.Env();
    auto task = std::make_shared<QuantizeTask>();
    task->options = parse_options(env, info[1]);
    std::shared_ptr<NativeCalibration> sums;
    if (!is_nullish(env, info[2])) {
      const auto field = [&](const char* key) { return property(env, info[2], key, "hessian"); };
      sums = CalibrationObject::from(env, field("calibration"), "calibration").native(env);
      task->layer = sums->sums.find(static_cast<int>(integer(env, field("layer"), "layer", 0, INT32_MAX)));
      if (task->layer == nullptr) throw_error(env, Code::InvalidArgument, "layer is not among those calibrated");
      const auto experts = static_cast<int64_t>(task->layer->experts.size());
      task->expert = integer(env, field("expert"), "expert", 0, experts - 1);
      task->units = choice_index(env, field("part"), "part", parts, 2) == 1;
      const napi_value blend = field("blend");
      if (!is_nullish(env, blend)) task->blend = number(env, blend, "blend");
    }
    const int64_t rows = TensorSource::rows_of(env, info[0], "source"),
                  cols = TensorSource::cols_of(env, info[0], "source");
    task->source = TensorSource::parse(env, info[0], "source", {rows, cols});
    std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(env, info[3]);
    read_scale(env, info[1], "inputScale", cols, &task->input_scale);
    read_scale(env, info[1], "rowScale", rows, &task->row_scale);
    if (sums != nullptr) task->calibration = InUse<NativeCalibration>(env, sums, "calibration");
    return AsyncTask::start(env, std::move(task), std::move(cancel));
  });
}

// import(options, { name: { data, dtype, shape } }, cancel)
Napi::Value QuantizedMatrixObject::import(const Napi::CallbackInfo& info) {
  return guarded_async(info.Env(), [&]() -> Napi::Value {
    static const char* const kinds[] = {"gptq", "awq", "packed", "int8", "float8", "mxfp4", "nvfp4", "bitnet"};
    static const char* const names[] = {"qweight",
                                        "qzeros",
                                        "scales",
                                        "g_idx",
                                        "weight_packed",
                                        "weight_scale",
                                        "weight_zero_point",
                                        "weight_g_idx",
                                        "weight_global_scale",
                                        "weight",
                                        "blocks"};
    const Napi::Env env = info.Env();
    auto task = std::make_shared<ImportTask>();
    ImportOptions& options = task->options;
    options.kind = choice<ImportKind>(env, property(env, info[0], "kind", "options"), "kind", kinds);
    options.rows = integer(env, property(env, info[0], "rows", "options"), "rows", 1, kMaxSide);
    options.cols = integer(env, property(env, info[0], "cols", "options"), "cols", 1, kMaxSide);
    options.bits = static_cast<int>(integer_or(env, info[0], "bits", 1, 8, 4));
    options.group = integer_or(env, info[0], "group", 0, kMaxSide, 0);
    options.stored_zero_minus_one = boolean_or(env, info[0], "storedZeroMinusOne", true);
    options.divide = boolean_or(env, info[0], "divide", false);
    for (const char* name : names) {
      const napi_value value = property(env, info[1], name, "tensors");
      if (is_nullish(env, value)) continue;
      RawTensor tensor;
      tensor.dtype = text(env, property(env, value, "dtype", name), "dtype");
      const napi_value shape = property(env, value, "shape", name), data = property(env, value, "data", name);
      const uint32_t rank = array_length(env, shape, "shape", 8);
      for (uint32_t i = 0; i < rank; ++i)
        tensor.shape.push_back(integer(env, element(env, shape, i), "shape", 0, int64_t{1} << 40));
      const TypedView view = typed_array(env, data, name, napi_uint8_array, kAnyLength);
      const auto* bytes = static_cast<const uint8_t*>(view.data);
      tensor.bytes.assign(bytes, bytes + view.length);
      task->tensors.emplace(name, std::move(tensor));
    }
    return AsyncTask::start(env, std::move(task), CancelTokenObject::flag_of(env, info[2]));
  });
}

Napi::Value QuantizedMatrixObject::format(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), weight_format_name(native(info.Env())->matrix.format));
}
Napi::Value QuantizedMatrixObject::rows(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->matrix.rows));
}
Napi::Value QuantizedMatrixObject::cols(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->matrix.cols));
}
Napi::Value QuantizedMatrixObject::group(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->matrix.group));
}

Napi::Value QuantizedMatrixObject::report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const QuantizeReport& report = native(env)->report;
  Napi::Object object = Napi::Object::New(env);
  object.Set("squaredError", report.squared_error);
  object.Set("squaredWeight", report.squared_weight);
  object.Set("loss", report.loss);
  object.Set("damping", report.damping);
  object.Set("deadColumns", static_cast<double>(report.dead_columns));
  return object;
}

Napi::Value QuantizedMatrixObject::dequantize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const QuantizedMatrix& m = native(env)->matrix;
  const NewArray array = new_array(env, napi_float32_array, m.rows * m.cols);
  for (int64_t r = 0; r < m.rows; ++r) dequantize_row(m, r, static_cast<float*>(array.data) + r * m.cols);
  return array.value;
}

Napi::Value QuantizedMatrixObject::dispose(const Napi::CallbackInfo& info) {
  drop(info.Env());
  return info.Env().Undefined();
}

void QuantizedMatrixObject::drop(Napi::BasicEnv env) {
  if (native_ != nullptr) native_->memory.close(env);
  native_.reset();
}

}  // namespace smoe
