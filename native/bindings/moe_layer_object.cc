#include "bindings/moe_layer_object.h"

#include <functional>

#include "bindings/device_twin.h"
#include "bindings/forward_args.h"
#include "bindings/moe_layer_tasks.h"
#include "core/workspace_pool.h"

namespace smoe {
namespace {

bool overlap(const void* a, const void* b, size_t bytes) {
  const auto* x = static_cast<const unsigned char*>(a);
  const auto* y = static_cast<const unsigned char*>(b);
  const std::less<const unsigned char*> before;  // defined for unrelated pointers, unlike <
  return a != nullptr && b != nullptr && before(x, y + bytes) && before(y, x + bytes);
}

}  // namespace

Napi::Function MoeLayerObject::define(Napi::Env env) {
  return DefineClass(
      env, kName,
      {StaticMethod<&MoeLayerObject::create>("create"), getter<&MoeLayerObject::hidden>("hidden"),
       getter<&MoeLayerObject::expert_count>("expertCount"), getter<&MoeLayerObject::slots>("slots"),
       getter<&MoeLayerObject::bytes>("bytes"), getter<&MoeLayerObject::device>("device"),
       getter<&MoeLayerObject::device_bytes>("deviceBytes"), async_method<&MoeLayerObject::forward>("forward"),
       method<&MoeLayerObject::forward_sync>("forwardSync"), method<&MoeLayerObject::counts>("counts"),
       method<&MoeLayerObject::reset_stats>("resetStats"), method<&MoeLayerObject::dispose>("dispose")});
}

MoeLayerObject::MoeLayerObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  layer_ = take_pending<NativeMoeLayer>(info.Env());
  // Memory of the device too: nothing else would press V8 to collect a forgotten layer.
  memory_.set(info.Env(), layer_->bytes() + layer_->device_bytes());
}

Napi::Object MoeLayerObject::make(Napi::Env env, std::shared_ptr<NativeMoeLayer> native) {
  return construct(env, env_data(env).moe_layer, std::move(native));
}

Napi::Value MoeLayerObject::create(const Napi::CallbackInfo& info) {
  return guarded_async(info.Env(), [&]() -> Napi::Value { return start_create_moe_layer(info); });
}

const std::shared_ptr<NativeMoeLayer>& MoeLayerObject::native(napi_env env) const {
  if (layer_ == nullptr) throw_error(env, Code::Disposed, "MoeLayer is disposed");
  return layer_;
}

Napi::Value MoeLayerObject::hidden(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->layer.config.hidden));
}

Napi::Value MoeLayerObject::expert_count(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(native(info.Env())->layer.config.router.experts));
}

Napi::Value MoeLayerObject::slots(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), native(info.Env())->layer.config.router.k);
}

Napi::Value MoeLayerObject::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), layer_ == nullptr ? 0 : static_cast<double>(layer_->bytes()));
}

Napi::Value MoeLayerObject::device(const Napi::CallbackInfo& info) {
  const auto& device = native(info.Env())->device;
  return Napi::Number::New(info.Env(), device != nullptr ? device->device()->index() : kHost);
}

Napi::Value MoeLayerObject::device_bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), layer_ == nullptr ? 0 : static_cast<double>(layer_->device_bytes()));
}

Napi::Value MoeLayerObject::forward(const Napi::CallbackInfo& info) {
  // A copy: a getter among the options may dispose() this very object.
  const std::shared_ptr<NativeMoeLayer> layer = native(info.Env());
  return start_moe_forward(info, layer, ForwardArgs::parse(info, *layer));
}

Napi::Value MoeLayerObject::forward_sync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<NativeMoeLayer> layer = native(env);  // a copy, as above
  ForwardArgs args = ForwardArgs::parse(info, *layer);
  if (args.out == nullptr) throw_error(env, Code::InvalidType, "out must be a typed array");
  if (cancelled(args.cancel.get())) throw_error(env, Code::Cancelled, "cancelled before it started");
  args.call.cancel = args.cancel.get();
  sync_counts_.assign(layer->counts.size(), 0);
  args.call.counts = sync_counts_.data();

  WorkspacePool::Lease work = WorkspacePool::process().lease();
  Buffer copy;
  void* out = args.call.out;
  const bool aliased = overlap(args.call.hidden, out, args.hidden_bytes) ||
                       overlap(args.call.residual, out, static_cast<size_t>(args.elements()) * sizeof(float));
  if (aliased) {  // rare, so it may cost: kernels read inputs while they write results
    throw_if_error(env, copy.allocate(args.hidden_bytes));
    args.call.out = copy.data();
  }
  throw_if_error(env, args.call.run(*work));
  if (aliased) std::memcpy(out, copy.data(), args.hidden_bytes);
  for (size_t i = 0; i < sync_counts_.size(); i++) layer->counts[i] += sync_counts_[i];
  return env.Undefined();
}

Napi::Value MoeLayerObject::counts(const Napi::CallbackInfo& info) {
  const std::vector<uint64_t>& counts = native(info.Env())->counts;
  return counts_array(info.Env(), counts.data(), static_cast<int64_t>(counts.size()));
}

Napi::Value MoeLayerObject::reset_stats(const Napi::CallbackInfo& info) {
  std::vector<uint64_t>& counts = native(info.Env())->counts;
  std::fill(counts.begin(), counts.end(), 0);
  return info.Env().Undefined();
}

Napi::Value MoeLayerObject::dispose(const Napi::CallbackInfo& info) {
  layer_.reset();  // a running call holds its own share
  memory_.close(info.Env());
  return info.Env().Undefined();
}

}  // namespace smoe
