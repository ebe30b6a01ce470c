#include "bindings/momentum_spec.h"

#include "bindings/convert.h"
#include "bindings/errors.h"

namespace smoe {
namespace {

constexpr uint32_t kMaxLayers = 1 << 16;

void read(napi_env env, napi_value object, const char* key, const std::string& name, double* out) {
  const napi_value value = property(env, object, key, name.c_str());
  if (!is_nullish(env, value)) *out = number(env, value, (name + "." + key).c_str());
}

// A number for all layers, or an array with one per MoE layer.
void read(napi_env env, napi_value object, const char* key, const std::string& name, double* all,
          std::vector<double>* layers) {
  const napi_value value = property(env, object, key, name.c_str());
  bool is_array = false;
  throw_if_failed(env, napi_is_array(env, value, &is_array));
  if (!is_array) {
    if (!is_nullish(env, value)) *all = number(env, value, (name + "." + key).c_str());
    return;
  }
  const std::string full = name + "." + key;
  layers->resize(array_length(env, value, full.c_str(), kMaxLayers));
  for (uint32_t i = 0; i < layers->size(); i++) (*layers)[i] = number(env, element(env, value, i), full.c_str());
}

}  // namespace

MomentumSpec parse_momentum(napi_env env, napi_value value, const std::string& name) {
  static const char* const types[] = {"none", "heavy_ball", "complex", "robust", "nesterov", "adam"};
  MomentumSpec spec = default_spec(
      choice<MomentumType>(env, property(env, value, "type", name.c_str()), (name + ".type").c_str(), types));
  read(env, value, "mu", name, &spec.mu, &spec.mu_layers);
  read(env, value, "gamma", name, &spec.gamma, &spec.gamma_layers);
  read(env, value, "sign", name, &spec.sign);
  read(env, value, "beta1", name, &spec.beta1);
  read(env, value, "beta2", name, &spec.beta2);
  read(env, value, "gamma1", name, &spec.gamma1);
  read(env, value, "eps", name, &spec.eps);
  read(env, value, "kappa", name, &spec.kappa);
  read(env, value, "L", name, &spec.L);
  const napi_value adam = property(env, value, "adamLayers", name.c_str());
  if (!is_nullish(env, adam)) {
    const std::string full = name + ".adamLayers";
    spec.adam_layers.resize(array_length(env, adam, full.c_str(), kMaxLayers));
    for (uint32_t i = 0; i < spec.adam_layers.size(); i++) {
      spec.adam_layers[i] = static_cast<int>(integer(env, element(env, adam, i), full.c_str(), 0, kMaxLayers));
    }
  }
  throw_if_error(env, validate(spec));
  return spec;
}

}  // namespace smoe
