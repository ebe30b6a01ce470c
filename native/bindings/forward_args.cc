#include "bindings/forward_args.h"

#include "bindings/convert.h"
#include "bindings/moe_layer_object.h"
#include "bindings/router_config.h"
#include "layer/route_stage.h"

namespace smoe {
namespace {

// What the options hold, fetched before any data pointer is taken: a getter could detach a buffer.
struct Options {
  napi_value residual = nullptr, ids = nullptr, weights = nullptr, expert_bits = nullptr;
  int slots = 0;
};

Options parse_options(napi_env env, napi_value value, ForwardArgs* args) {
  Options options;
  if (is_nullish(env, value)) return options;
  const auto field = [&](const char* key) { return property(env, value, key, "options"); };
  const napi_value state = field("state");
  const napi_value residual = field("residual");
  const napi_value routing = field("routing");
  args->cancel = CancelTokenObject::flag_of(env, field("cancel"));
  const napi_value expert_bits = field("expertBits");
  if (!is_nullish(env, residual)) options.residual = residual;
  if (!is_nullish(env, expert_bits)) options.expert_bits = expert_bits;
  if (!is_nullish(env, routing)) {
    options.ids = property(env, routing, "ids", "routing");
    options.weights = property(env, routing, "weights", "routing");
    options.slots =
        static_cast<int>(integer(env, property(env, routing, "slots", "routing"), "routing.slots", 1, kMaxSlots));
  }
  if (!is_nullish(env, state)) {
    args->state = InUse<NativeMomentumState>(env, MomentumStateObject::from(env, state, "state").native(env), "state");
  }
  return options;
}

void check_state(napi_env env, const NativeMomentumState& state, int64_t tokens, int64_t hidden) {
  if (state.tokens != tokens || state.hidden != hidden) {
    throw_error(env, Code::ShapeMismatch, "state is [%lld, %lld], but hidden is [%lld, %lld]",
                static_cast<long long>(state.tokens), static_cast<long long>(state.hidden),
                static_cast<long long>(tokens), static_cast<long long>(hidden));
  }
  if (state.broken) {
    throw_error(env, Code::StateReused, "state was left half-way by a call that failed or was cancelled: reset() it");
  }
}

}  // namespace

std::vector<uint8_t> parse_expert_bits(napi_env env, napi_value value, const char* name, int64_t count) {
  const TypedView view = typed_array(env, value, name, napi_uint8_array, count);
  const auto* bits = static_cast<const uint8_t*>(view.data);
  std::vector<uint8_t> copy(bits, bits + view.length);
  for (size_t i = 0; i < copy.size(); i++) {
    if (copy[i] < 2 || copy[i] > 8) {
      throw_error(env, Code::InvalidArgument, "%s[%zu] must be in [2, 8], got %d", name, i, copy[i]);
    }
  }
  return copy;
}

ForwardArgs ForwardArgs::parse(const Napi::CallbackInfo& info, const NativeMoeLayer& native) {
  const napi_env env = info.Env();
  const MoeLayer& layer = native.layer;
  ForwardArgs args;
  LayerCall& call = args.call;
  call.layer = &layer;
  call.device = native.device.get();
  call.dtype = float_dtype(env, info[1], "dtype");
  // Positions of assignments are int32 inside.
  call.tokens = integer(env, info[2], "tokens", 0, INT32_MAX / kMaxSlots);
  const Options options = parse_options(env, info[4], &args);
  const int64_t count = element_count(env, call.tokens, layer.config.hidden, "hidden");
  if (args.state.get() != nullptr) check_state(env, *args.state.get(), call.tokens, layer.config.hidden);

  call.hidden = float_array(env, info[0], "hidden", call.dtype, count).data;
  args.hidden_bytes = static_cast<size_t>(count) * dtype_bytes(call.dtype);
  if (!is_nullish(env, info[3])) {
    args.out = info[3];
    call.out = float_array(env, args.out, "out", call.dtype, count).data;
  }
  if (options.residual != nullptr) call.residual = f32_array(env, options.residual, "residual", count);
  if (options.slots > 0) {
    const int64_t pairs = call.tokens * options.slots;
    call.given.tokens = call.tokens;
    call.given.slots = options.slots;
    call.given.ids = i32_array(env, options.ids, "routing.ids", pairs);
    call.given.weights = f32_array(env, options.weights, "routing.weights", pairs);
  }
  if (options.expert_bits != nullptr) {
    call.expert_bits = parse_expert_bits(env, options.expert_bits, "expertBits", layer.config.router.experts);
  }
  call.state = args.state.get();
  return args;
}

}  // namespace smoe
