// Calibration.smoothing() and Calibration.alignRouter(): what the sums say of a layer's scales and of its router.
#include <algorithm>
#include <cmath>

#include "bindings/calibration_object.h"
#include "bindings/cancel_token_object.h"
#include "bindings/in_use.h"
#include "bindings/quantized_task.h"
#include "bindings/tensor_source.h"
#include "prepare/align_router.h"
#include "prepare/smoothing.h"

namespace smoe {
namespace {

const LayerSums& layer_of(napi_env env, const NativeCalibration& sums, napi_value value) {
  const LayerSums* layer = sums.sums.find(static_cast<int>(integer(env, value, "layer", 0, INT32_MAX)));
  if (layer == nullptr) throw_error(env, Code::InvalidArgument, "layer is not among those calibrated");
  return *layer;
}

// Matrices with the same inputs: an expert's gate and up, a router, a shared expert's, or an expert's down.
struct Consumer {
  int64_t expert = -1;  // whose inputs they have; -1: the layer's
  std::vector<TensorSource> weights;
};

class SmoothingTask : public AsyncTask {
 public:
  SmoothingTask(napi_env env, const std::shared_ptr<NativeCalibration>& sums, const LayerSums& layer)
      : sums_(env, sums, "calibration"), layer_(layer) {}
  bool awq = false, units = false, search = false;
  WeightFormat format = WeightFormat::W4;
  bool symmetric = true;
  int64_t group = 0;
  std::vector<Consumer> consumers;

 protected:
  Status run() override { return awq ? find_scales() : ranges(); }
  void finished(Napi::Env, const Status&) noexcept override { sums_.release(); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("scale",
               copied_array(env, napi_float32_array, found_.scale.data(), static_cast<int64_t>(found_.scale.size())));
    object.Set("power", found_.power);
    object.Set("loss", found_.loss);
    object.Set("lossPlain", found_.loss_plain);
    return object;
  }

 private:
  Status find_scales() {
    Grid grid;
    SMOE_RETURN_IF_ERROR(make_grid(format, symmetric, &grid));
    std::vector<std::vector<float>> values;
    std::vector<AwqMatrix> matrices;
    int64_t cols = 0;
    for (Consumer& consumer : consumers) {
      if (consumer.expert < 0) continue;  // nothing is known of the moments of its inputs
      const ExpertSums& sums = layer_.experts[static_cast<size_t>(consumer.expert)];
      for (TensorSource& source : consumer.weights) {
        cols = source.cols();
        if (cancelled(cancel())) return Status(Code::Cancelled, "cancelled");
        values.emplace_back();
        SMOE_RETURN_IF_ERROR(source.values(&values.back()));
        matrices.push_back({values.back().data(), source.rows(), units ? &sums.units : &sums.input});
      }
    }
    return awq_scales(grid, matrices, cols, group > 0 ? group : cols, search, ThreadPool::process(), cancel(), &found_);
  }

  Status ranges() {
    const std::vector<double> inputs(layer_.input_max.begin(), layer_.input_max.end());
    std::vector<std::vector<double>> scales;
    for (Consumer& consumer : consumers) {
      std::vector<double> most(inputs.size(), 0);
      for (TensorSource& source : consumer.weights) {
        if (cancelled(cancel())) return Status(Code::Cancelled, "cancelled");
        std::vector<float> values;
        SMOE_RETURN_IF_ERROR(source.values(&values));
        if (source.cols() != static_cast<int64_t>(inputs.size()))
          return error(Code::ShapeMismatch, "weights have %lld columns, the inputs %zu",
                       static_cast<long long>(source.cols()), inputs.size());
        for (size_t i = 0; i < values.size(); ++i) {
          if (!std::isfinite(values[i])) return Status(Code::NonFiniteInput, "a weight is not finite");
          double& largest = most[i % inputs.size()];
          largest = std::max(largest, static_cast<double>(std::fabs(values[i])));
        }
      }
      scales.push_back(smoothing_scales(inputs, most));
    }
    found_.scale = power_of_two_scales(merge_smoothing(scales), inputs);
    return Status();
  }

  InUse<NativeCalibration> sums_;
  const LayerSums& layer_;
  AwqScales found_;
};

class AlignTask : public AsyncTask {
 public:
  AlignTask(napi_env env, const std::shared_ptr<NativeCalibration>& sums, const LayerSums& layer)
      : sums_(env, sums, "calibration"), layer_(layer) {}
  TensorSource weight, bias;
  std::vector<float> input_scale;
  int k = 1;

 protected:
  Status run() override {
    std::vector<float> weights, biases;
    SMOE_RETURN_IF_ERROR(weight.values(&weights));
    if (!bias.empty()) SMOE_RETURN_IF_ERROR(bias.values(&biases));
    const auto hidden = static_cast<size_t>(weight.cols());
    std::vector<float> inputs = layer_.sample;
    if (!input_scale.empty()) {
      for (size_t i = 0; i < weights.size(); ++i) weights[i] *= input_scale[i % hidden];
      for (size_t i = 0; i < inputs.size(); ++i) inputs[i] /= input_scale[i % hidden];
    }
    RouterAlignment router;
    router.weight = weights.data();
    router.bias = biases.empty() ? nullptr : biases.data();
    router.experts = weight.rows();
    router.hidden = weight.cols();
    router.inputs = inputs.data();
    router.tokens = static_cast<int64_t>(inputs.size() / hidden);
    router.k = k;
    return align_router(router, ThreadPool::process(), cancel(), &clip_, &made_->matrix);
  }
  void finished(Napi::Env, const Status&) noexcept override { sums_.release(); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("ratio", clip_.ratio);
    object.Set("kl", clip_.kl);
    object.Set("klPlain", clip_.kl_plain);
    object.Set("matrix", QuantizedMatrixObject::make(env, made_));
    return object;
  }

 private:
  InUse<NativeCalibration> sums_;
  const LayerSums& layer_;
  RouterClip clip_;
  std::shared_ptr<NativeQuantized> made_ = std::make_shared<NativeQuantized>();
};

}  // namespace

// smoothing(layer, { kind, part, format, symmetric, group, search }, [{ expert, weights }], cancel)
Napi::Value CalibrationObject::smoothing(const Napi::CallbackInfo& info) {
  static const char* const kinds[] = {"eaquant", "awq"};
  static const char* const parts[] = {"input", "units"};
  const Napi::Env env = info.Env();
  const LayerSums& layer = layer_of(env, *native(env), info[0]);
  const auto field = [&](const char* key) { return property(env, info[1], key, "options"); };
  const bool awq = choice_index(env, field("kind"), "kind", kinds, 2) == 1;
  const bool units = choice_index(env, field("part"), "part", parts, 2) == 1;
  if (units && !awq) throw_error(env, Code::InvalidArgument, "part must be 'input' for eaquant");
  std::vector<Consumer> consumers;
  const uint32_t count = array_length(env, info[2], "consumers", 1 << 20);
  if (count == 0) throw_error(env, Code::InvalidArgument, "consumers must not be empty");
  const auto hidden = static_cast<int64_t>(layer.input_max.size());
  for (uint32_t i = 0; i < count; ++i) {
    const napi_value one = element(env, info[2], i);
    Consumer consumer;
    const napi_value expert = property(env, one, "expert", "consumer");
    if (!is_nullish(env, expert))
      consumer.expert = integer(env, expert, "expert", 0, static_cast<int64_t>(layer.experts.size()) - 1);
    const int64_t cols =
        units && consumer.expert >= 0 ? layer.experts[static_cast<size_t>(consumer.expert)].units.size : hidden;
    const napi_value weights = property(env, one, "weights", "consumer");
    const uint32_t matrices = array_length(env, weights, "weights", 8);
    for (uint32_t j = 0; j < matrices; ++j) {
      const napi_value source = element(env, weights, j);
      consumer.weights.push_back(
          TensorSource::parse(env, source, "weights", {TensorSource::rows_of(env, source, "weights"), cols}));
    }
    consumers.push_back(std::move(consumer));
  }
  std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(env, info[3]);
  auto task = std::make_shared<SmoothingTask>(env, native(env), layer);
  task->awq = awq;
  task->units = units;
  task->consumers = std::move(consumers);
  if (awq) {
    task->format = parse_format(env, field("format"));
    task->search = boolean_or(env, info[1], "search", false);
    task->symmetric = boolean_or(env, info[1], "symmetric", true);
    task->group = integer_or(env, info[1], "group", 0, kMaxSide, 0);
  }
  return AsyncTask::start(env, std::move(task), std::move(cancel));
}

// alignRouter(layer, weight, { k, bias, inputScale }, cancel)
Napi::Value CalibrationObject::align_router(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const LayerSums& layer = layer_of(env, *native(env), info[0]);
  const auto experts = static_cast<int64_t>(layer.experts.size());
  const auto hidden = static_cast<int64_t>(layer.input_max.size());
  TensorSource weight = TensorSource::parse(env, info[1], "weight", {experts, hidden}), bias;
  parse_optional(env, info[2], "bias", "options", {experts}, &bias);
  const auto k = static_cast<int>(integer(env, property(env, info[2], "k", "options"), "k", 1, experts));
  const napi_value scale = property(env, info[2], "inputScale", "options");
  std::vector<float> input_scale;
  if (!is_nullish(env, scale)) {
    const float* values = f32_array(env, scale, "inputScale", hidden);
    input_scale.assign(values, values + hidden);
  }
  std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(env, info[3]);
  auto task = std::make_shared<AlignTask>(env, native(env), layer);
  task->weight = std::move(weight);
  task->bias = std::move(bias);
  task->k = k;
  task->input_scale = std::move(input_scale);
  return AsyncTask::start(env, std::move(task), std::move(cancel));
}

}  // namespace smoe
