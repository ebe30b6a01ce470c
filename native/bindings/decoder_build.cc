#include "bindings/decoder_build.h"

#include "bindings/cancel_token_object.h"
#include "bindings/decoder_source.h"
#include "bindings/device_twin.h"

namespace smoe {
namespace {

class CreateTask : public AsyncTask {
 public:
  DecoderHeadSource source;
  Precision precision = Precision::Fast;
  int device = kHost;

 protected:
  Status run() override {
    std::shared_ptr<Device> on;
    SMOE_RETURN_IF_ERROR(open_device(device, &on));
    auto native = std::make_shared<NativeDecoder>();
    PackList list(precision);
    source.pack_into(list, precision, &native->decoder);
    SMOE_RETURN_IF_ERROR(list.run(ThreadPool::process(), cancel()));
    source = DecoderHeadSource();
    if (on != nullptr) {
      SMOE_RETURN_IF_ERROR(
          DeviceDecoder::create(on, native->decoder, ThreadPool::process(), cancel(), &native->device));
      native->device_bytes = native->device->bytes();
      drop_ends(native->decoder);
    }
    native_ = std::move(native);
    return {};
  }
  Napi::Value result(Napi::Env env) override { return DecoderObject::make(env, std::move(native_)); }

 private:
  std::shared_ptr<NativeDecoder> native_;
};

// Packs a layer of its own and hands it over on the JS thread, so that nobody sees a decoder half-way.
class AddLayerTask : public AsyncTask {
 public:
  AddLayerTask(std::shared_ptr<NativeDecoder> decoder, DecoderLayerSource source)
      : decoder_(std::move(decoder)), precision_(decoder_->decoder.precision), source_(std::move(source)) {
    decoder_->pending_layers++;
  }

 protected:
  Status run() override {
    PackList list(precision_);
    source_.pack_into(list, precision_, &layer_);
    SMOE_RETURN_IF_ERROR(list.run(ThreadPool::process(), cancel()));
    if (layer_.moe != nullptr) {
      SMOE_RETURN_IF_ERROR(layer_.moe->validate());
      if (decoder_->device == nullptr) SMOE_RETURN_IF_ERROR(layer_.moe->validate_on_cpu());
    }
    source_ = DecoderLayerSource();
    return decoder_->device == nullptr ? Status() : upload();
  }
  void finished(Napi::Env, const Status&) noexcept override { decoder_->pending_layers--; }
  Napi::Value result(Napi::Env env) override {
    decoder_->decoder.layers.push_back(std::move(layer_));
    if (decoder_->device != nullptr) decoder_->device_bytes = device_bytes_;
    decoder_->report(env);
    return env.Undefined();
  }

 private:
  // Layers reach the device in the order of their ops, which is the order in which result() adds them here.
  Status upload() {
    SMOE_RETURN_IF_ERROR(decoder_->device->add_layer(layer_, ThreadPool::process(), cancel()));
    device_bytes_ = decoder_->device->bytes();
    drop_elements(layer_);
    return {};
  }

  std::shared_ptr<NativeDecoder> decoder_;
  Precision precision_;
  DecoderLayerSource source_;
  DecoderLayer layer_;
  size_t device_bytes_ = 0;
};

}  // namespace

Napi::Value start_create_decoder(const Napi::CallbackInfo& info) {
  auto task = std::make_shared<CreateTask>();
  task->source = DecoderHeadSource::parse(info.Env(), info[0]);
  task->precision = parse_precision(info.Env(), info[1]);
  task->device = device_argument(info.Env(), info[3]);
  return AsyncTask::start(info.Env(), task, CancelTokenObject::flag_of(info.Env(), info[2]));
}

Napi::Value start_add_layer(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder) {
  DecoderLayerSource source = DecoderLayerSource::parse(info.Env(), info[0], decoder->decoder.hidden);
  std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(info.Env(), info[1]);
  auto task = std::make_shared<AddLayerTask>(std::move(decoder), std::move(source));
  return AsyncTask::start(info.Env(), std::move(task), std::move(cancel));
}

}  // namespace smoe
