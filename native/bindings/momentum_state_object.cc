#include "bindings/momentum_state_object.h"

#include <cstring>

#include "bindings/momentum_spec.h"

namespace smoe {
namespace {

constexpr int64_t kMaxTokens = INT32_MAX;
constexpr int64_t kMaxHidden = 1 << 24;

}  // namespace

Status NativeMomentumState::allocate() {
  for (int i = 0; i < state_tensors(spec); i++) {
    SMOE_RETURN_IF_ERROR(tensors[i].allocate(elements() * sizeof(float)));
  }
  return {};
}

ResidualState NativeMomentumState::pointers() {
  ResidualState state;
  state.m = tensors[0].as<float>();
  if (spec.type == MomentumType::Complex) {
    state.m_im = tensors[1].as<float>();
  } else {
    state.p = tensors[1].as<float>();
    state.v = tensors[2].as<float>();
  }
  return state;
}

Napi::Function MomentumStateObject::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {method<&MomentumStateObject::reset>("reset"), getter<&MomentumStateObject::depth>("depth"),
                      getter<&MomentumStateObject::bytes>("bytes"), method<&MomentumStateObject::read>("read"),
                      method<&MomentumStateObject::dispose>("dispose")});
}

MomentumStateObject::MomentumStateObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  const Napi::Env env = info.Env();
  guarded(env, [&] {
    auto state = std::make_shared<NativeMomentumState>();
    state->spec = parse_momentum(env, info[0], "spec");
    state->tokens = integer(env, info[1], "tokens", 0, kMaxTokens);
    state->hidden = integer(env, info[2], "hidden", 1, kMaxHidden);
    element_count(env, state->tokens, state->hidden, "state");
    throw_if_error(env, state->allocate());
    state_ = std::move(state);
    memory_.set(env, state_->bytes());
  });
}

const std::shared_ptr<NativeMomentumState>& MomentumStateObject::native(napi_env env) const {
  if (state_ == nullptr) throw_error(env, Code::Disposed, "MomentumState is disposed");
  return state_;
}

const std::shared_ptr<NativeMomentumState>& MomentumStateObject::idle(napi_env env) const {
  if (native(env)->in_use) {
    throw_error(env, Code::InvalidArgument, "state is in use by a call that has not finished");
  }
  return state_;
}

Napi::Value MomentumStateObject::reset(const Napi::CallbackInfo& info) {
  NativeMomentumState& state = *idle(info.Env());
  state.depth = 0;
  state.broken = false;
  return info.Env().Undefined();
}

Napi::Value MomentumStateObject::depth(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), native(info.Env())->depth);
}

Napi::Value MomentumStateObject::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), state_ == nullptr ? 0 : static_cast<double>(state_->bytes()));
}

Napi::Value MomentumStateObject::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string name = text(env, info[0], "name");
  NativeMomentumState& state = *idle(env);
  const ResidualState pointers = state.pointers();
  const float* data = name == "m"      ? pointers.m
                      : name == "m_im" ? pointers.m_im
                      : name == "p"    ? pointers.p
                      : name == "v"    ? pointers.v
                                       : nullptr;
  const bool known = name == "m" || name == "m_im" || name == "p" || name == "v";
  // An empty state has no memory, but its tensors exist.
  if (!known || (data == nullptr && state.elements() > 0)) {
    throw_error(env, Code::InvalidArgument, "name: this state has no tensor '%s'", name.c_str());
  }
  const NewArray copy = new_array(env, napi_float32_array, static_cast<int64_t>(state.elements()));
  if (state.depth > 0 && data != nullptr) std::memcpy(copy.data, data, state.elements() * sizeof(float));
  return copy.value;
}

Napi::Value MomentumStateObject::dispose(const Napi::CallbackInfo& info) {
  state_.reset();
  memory_.close(info.Env());
  return info.Env().Undefined();
}

}  // namespace smoe
