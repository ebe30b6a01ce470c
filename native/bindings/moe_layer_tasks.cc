#include "bindings/moe_layer_tasks.h"

#include <cstring>

#include "bindings/device_twin.h"
#include "bindings/moe_source.h"
#include "core/workspace_pool.h"

namespace smoe {
namespace {

class CreateTask : public AsyncTask {
 public:
  MoeSource source;
  Precision precision = Precision::Fast;
  int device = kHost;

 protected:
  Status run() override {
    std::shared_ptr<Device> on;
    SMOE_RETURN_IF_ERROR(open_device(device, &on));
    auto native = std::make_shared<NativeMoeLayer>();
    PackList list(precision);
    source.pack_into(list, precision, &native->layer);
    SMOE_RETURN_IF_ERROR(list.run(ThreadPool::process(), cancel()));
    SMOE_RETURN_IF_ERROR(native->layer.validate());
    native->counts.resize(native->layer.experts.size());
    source = MoeSource();  // copies of the weights go before the event loop gets its turn
    if (on == nullptr) {
      SMOE_RETURN_IF_ERROR(native->layer.validate_on_cpu());
    } else {
      SMOE_RETURN_IF_ERROR(DeviceMoeLayer::create(on, native->layer, ThreadPool::process(), cancel(), &native->device));
      drop_elements(native->layer);
    }
    native_ = std::move(native);
    return {};
  }
  Napi::Value result(Napi::Env env) override { return MoeLayerObject::make(env, std::move(native_)); }

 private:
  std::shared_ptr<NativeMoeLayer> native_;
};

// Inputs are copied before the call returns: the caller is free to overwrite or transfer them while the call is in
// flight. An array made here is unreachable from JavaScript until the promise settles, so the op thread writes to it
// directly; one that was passed in might be transferred away at any time, so results reach it on the JS thread only,
// after a look whether it is still there.
class ForwardTask : public AsyncTask {
 public:
  ForwardTask(napi_env env, std::shared_ptr<NativeMoeLayer> layer, ForwardArgs args)
      : layer_(std::move(layer)), call_(args.call), state_(std::move(args.state)), elements_(args.elements()) {
    const size_t hidden = args.hidden_bytes;
    const size_t residual = call_.residual != nullptr ? static_cast<size_t>(elements_) * sizeof(float) : 0;
    const auto pairs = static_cast<size_t>(call_.tokens * call_.given.slots);
    const size_t out = args.out != nullptr ? hidden : 0;
    counts_.resize(layer_->counts.size());
    throw_if_error(env, memory_.reserve(Workspace::bytes_for<char>(hidden) + Workspace::bytes_for<char>(residual) +
                                        2 * Workspace::bytes_for<int32_t>(pairs) + Workspace::bytes_for<char>(out)));
    call_.hidden = copy(call_.hidden, hidden);
    if (call_.residual != nullptr) call_.residual = static_cast<float*>(copy(call_.residual, residual));
    if (pairs > 0) {
      call_.given.ids = static_cast<int32_t*>(copy(call_.given.ids, pairs * sizeof(int32_t)));
      call_.given.weights = static_cast<float*>(copy(call_.given.weights, pairs * sizeof(float)));
    }
    call_.counts = counts_.data();
    if (args.out != nullptr) {
      staged_bytes_ = out;
      call_.out = memory_.take<unsigned char>(out);
      keep(Napi::Value(env, args.out));
    } else {
      const NewArray made =
          new_array(env, call_.dtype == Dtype::F32 ? napi_float32_array : napi_uint16_array, elements_);
      call_.out = made.data;
      keep(made);
    }
  }

 protected:
  Status run() override {
    call_.cancel = cancel();
    WorkspacePool::Lease work = WorkspacePool::process().lease();
    return call_.run(*work);
  }
  void finished(Napi::Env, const Status& status) noexcept override {
    state_.release();
    if (!status.ok()) return;
    for (size_t i = 0; i < counts_.size(); i++) layer_->counts[i] += counts_[i];
  }
  Napi::Value result(Napi::Env env) override {
    if (staged_bytes_ > 0) {
      const TypedView out = float_array(env, kept(), "out", call_.dtype, elements_);
      std::memcpy(out.data, call_.out, staged_bytes_);
    }
    return kept();
  }

 private:
  void* copy(const void* source, size_t bytes) {
    void* target = memory_.take<unsigned char>(bytes);
    if (bytes > 0) std::memcpy(target, source, bytes);
    return target;
  }

  std::shared_ptr<NativeMoeLayer> layer_;
  LayerCall call_;
  InUse<NativeMomentumState> state_;
  int64_t elements_;
  size_t staged_bytes_ = 0;
  std::vector<uint64_t> counts_;
  Workspace memory_;  // not leased: queued calls would take the warm workspaces from the one that runs
};

}  // namespace

Napi::Value start_create_moe_layer(const Napi::CallbackInfo& info) {
  auto task = std::make_shared<CreateTask>();
  task->source = MoeSource::parse(info.Env(), info[0], "desc");
  task->precision = parse_precision(info.Env(), info[1]);
  task->device = device_argument(info.Env(), info[3]);
  return AsyncTask::start(info.Env(), task, CancelTokenObject::flag_of(info.Env(), info[2]));
}

Napi::Value start_moe_forward(const Napi::CallbackInfo& info, std::shared_ptr<NativeMoeLayer> layer, ForwardArgs args) {
  std::shared_ptr<CancelFlag> cancel = args.cancel;
  auto task = std::make_shared<ForwardTask>(info.Env(), std::move(layer), std::move(args));
  return AsyncTask::start(info.Env(), std::move(task), std::move(cancel));
}

}  // namespace smoe
