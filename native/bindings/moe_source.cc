#include "bindings/moe_source.h"

#include "bindings/convert.h"
#include "bindings/errors.h"

namespace smoe {
namespace {

constexpr int64_t kMaxHidden = 1 << 24;

}  // namespace

ActivationSpec parse_activation(napi_env env, napi_value owner, const std::string& owner_name) {
  static const char* const names[] = {"silu", "gelu_tanh", "gelu_erf", "relu", "relu2", "identity"};
  const napi_value kind = property(env, owner, "activation", owner_name.c_str());
  ActivationSpec spec = choice<Activation>(env, kind, (owner_name + ".activation").c_str(), names);
  const napi_value glu = property(env, owner, "glu", owner_name.c_str());
  if (is_nullish(env, glu)) return spec;
  const std::string name = owner_name + ".glu";
  const auto read = [&](const char* key, float* out) {
    const napi_value value = property(env, glu, key, name.c_str());
    if (!is_nullish(env, value)) *out = static_cast<float>(number(env, value, (name + "." + key).c_str()));
  };
  read("alpha", &spec.alpha);
  read("limit", &spec.limit);
  read("beta", &spec.beta);
  return spec;
}

Precision parse_precision(napi_env env, napi_value value) {
  static const char* const names[] = {"exact", "fast"};
  return choice<Precision>(env, value, "precision", names);
}

ExpertSource ExpertSource::parse(napi_env env, napi_value value, const std::string& name, int64_t hidden) {
  ExpertSource source;
  const napi_value up = property(env, value, "up", name.c_str());
  const int64_t width = TensorSource::rows_of(env, up, name + ".up");
  source.up = TensorSource::parse(env, up, name + ".up", {width, hidden});
  source.down = TensorSource::parse(env, property(env, value, "down", name.c_str()), name + ".down", {hidden, width});
  parse_optional(env, value, "gate", name, {width, hidden}, &source.gate);
  source.up.parse_format(env, up, name + ".up");
  source.down.parse_format(env, property(env, value, "down", name.c_str()), name + ".down");
  if (source.glu()) source.gate.parse_format(env, property(env, value, "gate", name.c_str()), name + ".gate");
  parse_optional(env, value, "gateBias", name, {width}, &source.gate_bias);
  parse_optional(env, value, "upBias", name, {width}, &source.up_bias);
  parse_optional(env, value, "downBias", name, {hidden}, &source.down_bias);
  if (!source.glu() && !source.gate_bias.empty()) {
    throw_error(env, Code::ShapeMismatch, "%s has a gateBias but no gate", name.c_str());
  }
  return source;
}

void ExpertSource::pack_into(PackList& list, ExpertWeights* out) const {
  list.add(gate, &out->gate);
  list.add(up, &out->up);
  list.add(down, &out->down);
  list.add(gate_bias, &out->gate_bias);
  list.add(up_bias, &out->up_bias);
  list.add(down_bias, &out->down_bias);
}

MoeSource MoeSource::parse(napi_env env, napi_value value, const std::string& name) {
  MoeSource source;
  MoeLayerConfig& config = source.config;
  const auto field = [&](const char* key) { return property(env, value, key, name.c_str()); };
  config.hidden = integer(env, field("hidden"), (name + ".hidden").c_str(), 1, kMaxHidden);
  config.activation = parse_activation(env, value, name);
  static const char* const activations[] = {"auto", "bf16", "int8"};
  const napi_value wanted = field("activations");
  if (!is_nullish(env, wanted))
    config.activations = choice<Activations>(env, wanted, (name + ".activations").c_str(), activations);
  RouterArgs router = parse_router(env, field("router"), name + ".router");
  config.router = router.config;
  source.config_bias = std::move(router.model_bias);
  const int64_t experts = config.router.experts, hidden = config.hidden;
  source.router_weight = TensorSource::parse(env, field("routerWeight"), name + ".routerWeight", {experts, hidden});
  parse_optional(env, value, "routerBias", name, {experts}, &source.router_bias);
  parse_optional(env, value, "modelBias", name, {experts}, &source.model_bias);
  if (!source.model_bias.empty()) config.router.has_bias = true;

  const napi_value list = field("experts");
  const uint32_t count = array_length(env, list, (name + ".experts").c_str(), UINT32_MAX);
  if (count != experts) {
    throw_error(env, Code::ShapeMismatch, "%s.experts must have %lld elements as router.experts says, got %u",
                name.c_str(), static_cast<long long>(experts), count);
  }
  source.experts.reserve(count);
  for (uint32_t i = 0; i < count; i++) {
    const std::string expert_name = name + ".experts[" + std::to_string(i) + "]";
    source.experts.push_back(ExpertSource::parse(env, element(env, list, i), expert_name, hidden));
    if (source.experts[i].glu() != source.experts[0].glu()) {
      throw_error(env, Code::ShapeMismatch, "%s: either all experts have a gate or none", expert_name.c_str());
    }
  }
  config.glu = source.experts[0].glu();

  const napi_value shared = field("shared");
  if (!is_nullish(env, shared)) {
    source.shared.push_back(ExpertSource::parse(env, shared, name + ".shared", hidden));
    if (source.shared[0].glu() != config.glu) {
      throw_error(env, Code::ShapeMismatch, "%s.shared: either all experts have a gate or none", name.c_str());
    }
  }
  parse_optional(env, value, "sharedGate", name, {1, hidden}, &source.shared_gate);
  if (!source.shared_gate.empty() && source.shared.empty()) {
    throw_error(env, Code::ShapeMismatch, "%s has a sharedGate but no shared expert", name.c_str());
  }
  return source;
}

void MoeSource::pack_into(PackList& list, Precision precision, MoeLayer* out) const {
  out->config = config;
  out->config.precision = precision;
  out->model_bias = config_bias;
  out->experts.resize(experts.size());
  out->shared.resize(shared.size());
  list.add(router_weight, &out->router_weight);
  list.add(router_bias, &out->router_bias);
  list.add(model_bias, &out->model_bias);
  list.add(shared_gate, &out->shared_gate);
  for (size_t i = 0; i < experts.size(); i++) experts[i].pack_into(list, &out->experts[i]);
  for (size_t i = 0; i < shared.size(); i++) shared[i].pack_into(list, &out->shared[i]);
}

}  // namespace smoe
