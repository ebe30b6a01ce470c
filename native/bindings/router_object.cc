#include "bindings/router_object.h"

#include <cstring>

#include "bindings/cancel_token_object.h"
#include "bindings/layer_call.h"
#include "bindings/packing.h"
#include "core/workspace_pool.h"
#include "layer/route_stage.h"

namespace smoe {
namespace {

// Slot positions are int32 in what consumes a routing.
int64_t parse_tokens(napi_env env, napi_value value, const RouterConfig& config) {
  return integer(env, value, "tokens", 0, INT32_MAX / config.k);
}

const float* bias_of(const RouterArgs& args) { return args.model_bias.empty() ? nullptr : args.model_bias.data(); }

// Routes logits that are given, or that `router` computes from hidden first. Logits may hold anything (C.5 of the
// routing spec says what NaN and infinities mean); hidden must be finite.
class RouteTask : public AsyncTask {
 public:
  RouteTask(std::shared_ptr<const NativeRouter> router, int64_t tokens)
      : router_(std::move(router)),
        tokens_(tokens),
        arrays_(tokens, router_->args.config.k),
        logits_(static_cast<size_t>(tokens * router_->args.config.experts)) {}

  void copy_logits(const float* logits) { logits_.assign(logits, logits + logits_.size()); }
  void copy_hidden(const TypedView& hidden, Dtype dtype) {
    has_hidden_ = true;
    dtype_ = dtype;
    const size_t bytes = static_cast<size_t>(hidden.length) * dtype_bytes(dtype);
    hidden_.resize(bytes);
    if (bytes > 0) std::memcpy(hidden_.data(), hidden.data, bytes);
  }

 protected:
  Status run() override {
    const KernelTable* table;
    SMOE_RETURN_IF_ERROR(active_kernels(&table));
    WorkspacePool::Lease work = WorkspacePool::process().lease();
    if (has_hidden_) SMOE_RETURN_IF_ERROR(compute_logits(*table, *work));
    if (cancelled(cancel())) return Status(Code::Cancelled, "cancelled");
    const RouterConfig& config = router_->args.config;
    const auto scratch = static_cast<size_t>(2 * config.experts * kMaxPoolThreads);
    SMOE_RETURN_IF_ERROR(work->reserve(Workspace::bytes_for<float>(scratch)));
    Routing routing = arrays_.view(tokens_, config.k);
    route_rows(*table, ThreadPool::process(), config, logits_.data(), bias_of(router_->args),
               work->take<float>(scratch), &routing);
    return {};
  }
  Napi::Value result(Napi::Env env) override { return arrays_.to_js(env, has_hidden_ ? &logits_ : nullptr); }

 private:
  Status compute_logits(const KernelTable& table, Workspace& work) {
    const int64_t h = router_->weight.cols;
    const auto count = static_cast<size_t>(tokens_ * h);
    const size_t scratch = linear_workspace_bytes(tokens_, h);
    SMOE_RETURN_IF_ERROR(
        work.reserve(Workspace::bytes_for<float>(count) + Workspace::bytes_for<unsigned char>(scratch)));
    float* x = work.take<float>(count);
    to_f32(hidden_.data(), dtype_, count, x);
    const int64_t bad = first_non_finite_row(x, tokens_, h);
    if (bad >= 0) {
      return error(Code::NonFiniteInput, "hidden: row %lld holds NaN or infinity", static_cast<long long>(bad));
    }
    LinearArgs args;
    args.weight = &router_->weight;
    args.bias = router_->bias.empty() ? nullptr : router_->bias.data();
    args.x = x;
    args.rows = tokens_;
    args.out = logits_.data();
    linear(table, ThreadPool::process(), Precision::Exact, args, work.take<unsigned char>(scratch));
    return {};
  }

  std::shared_ptr<const NativeRouter> router_;
  int64_t tokens_;
  RoutingArrays arrays_;
  std::vector<float> logits_;  // [T, E]
  bool has_hidden_ = false;
  Dtype dtype_ = Dtype::F32;
  std::vector<unsigned char> hidden_;
};

}  // namespace

Napi::Function RouterObject::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {async_method<&RouterObject::route>("route"), method<&RouterObject::dispose>("dispose")});
}

// Packs at once: a router's matrix is small (128 experts of 4096 are 2 MiB).
RouterObject::RouterObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    auto router = std::make_shared<NativeRouter>();
    router->args = parse_router(env, info[0], "config");
    const int64_t experts = router->args.config.experts;
    const int64_t hidden = TensorSource::cols_of(env, info[1], "weight");
    const TensorSource weight = TensorSource::parse(env, info[1], "weight", {experts, hidden});
    if (!is_nullish(env, info[2])) {
      const float* bias = f32_array(env, info[2], "bias", experts);
      router->bias.assign(bias, bias + experts);
    }
    PackList list(Precision::Exact);
    list.add(weight, &router->weight);
    throw_if_error(env, list.run(ThreadPool::process(), nullptr));
    memory_.set(env, router->weight.bytes());
    router_ = std::move(router);
  });
}

Napi::Value RouterObject::route(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (router_ == nullptr) throw_error(env, Code::Disposed, "Router is disposed");
  const Dtype dtype = float_dtype(env, info[1], "dtype");
  const int64_t tokens = parse_tokens(env, info[2], router_->args.config);
  const int64_t count = element_count(env, tokens, router_->weight.cols, "hidden");
  element_count(env, tokens, router_->args.config.experts, "logits");
  const TypedView hidden = float_array(env, info[0], "hidden", dtype, count);
  auto task = std::make_shared<RouteTask>(router_, tokens);
  task->copy_hidden(hidden, dtype);
  return AsyncTask::start(env, std::move(task), CancelTokenObject::flag_of(env, info[3]));
}

Napi::Value RouterObject::dispose(const Napi::CallbackInfo& info) {
  router_.reset();
  memory_.close(info.Env());
  return info.Env().Undefined();
}

Napi::Value route_logits(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto router = std::make_shared<NativeRouter>();
  router->args = parse_router(env, info[0], "config");
  const int64_t tokens = parse_tokens(env, info[2], router->args.config);
  const int64_t count = element_count(env, tokens, router->args.config.experts, "logits");
  const float* logits = f32_array(env, info[1], "logits", count);
  auto task = std::make_shared<RouteTask>(std::move(router), tokens);
  task->copy_logits(logits);
  return AsyncTask::start(env, std::move(task), CancelTokenObject::flag_of(env, info[3]));
}

Napi::Value route_logits_sync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const KernelTable* table;
  throw_if_error(env, active_kernels(&table));
  const RouterArgs args = parse_router(env, info[0], "config");
  const int64_t experts = args.config.experts;
  const int64_t tokens = parse_tokens(env, info[2], args.config);
  const int64_t count = element_count(env, tokens, experts, "logits");
  const float* logits = f32_array(env, info[1], "logits", count);
  const NewArray ids = new_array(env, napi_int32_array, tokens * args.config.k);
  const NewArray weights = new_array(env, napi_float32_array, tokens * args.config.k);
  const NewArray counts = new_array(env, napi_int32_array, tokens);
  std::vector<float> scratch(static_cast<size_t>(2 * experts));
  for (int64_t token = 0; token < tokens; token++) {
    route_token(*table, args.config, logits + token * experts, bias_of(args), scratch.data(),
                static_cast<int32_t*>(ids.data) + token * args.config.k,
                static_cast<float*>(weights.data) + token * args.config.k, static_cast<int32_t*>(counts.data) + token);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("ids", ids.value);
  result.Set("weights", weights.value);
  result.Set("count", counts.value);
  return result;
}

}  // namespace smoe
