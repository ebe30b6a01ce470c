#include "layer/momentum.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace smoe {
namespace {

double at_layer(const std::vector<double>& layers, double scalar, int layer) {
  if (layers.empty()) return scalar;
  const size_t last = layers.size() - 1;
  return layers[std::min(static_cast<size_t>(layer), last)];
}

bool adam_layer(const MomentumSpec& spec, int layer) {
  return std::find(spec.adam_layers.begin(), spec.adam_layers.end(), layer) != spec.adam_layers.end();
}

// Kernels work in f32: what leaves its range there is refused here.
Status check_finite(const char* name, double value) {
  if (std::fabs(value) <= FLT_MAX) return {};
  return error(Code::InvalidSpec, "momentum.%s: expected a finite number, got %g", name, value);
}

Status check_scalars(const MomentumSpec& spec) {
  const struct {
    const char* name;
    double value;
  } fields[] = {{"mu", spec.mu},       {"gamma", spec.gamma}, {"sign", spec.sign},
                {"beta1", spec.beta1}, {"beta2", spec.beta2}, {"gamma1", spec.gamma1},
                {"eps", spec.eps},     {"kappa", spec.kappa}, {"L", spec.L}};
  for (const auto& field : fields) SMOE_RETURN_IF_ERROR(check_finite(field.name, field.value));
  for (double mu : spec.mu_layers) SMOE_RETURN_IF_ERROR(check_finite("mu", mu));
  for (double gamma : spec.gamma_layers) SMOE_RETURN_IF_ERROR(check_finite("gamma", gamma));
  if (spec.sign != 1 && spec.sign != -1) {
    return error(Code::InvalidSpec, "momentum.sign: expected 1 or -1, got %g", spec.sign);
  }
  return {};
}

Status check_lengths(const MomentumSpec& spec, int moe_layers) {
  const size_t mu = spec.mu_layers.size(), gamma = spec.gamma_layers.size();
  if (moe_layers < 0 && mu > 0 && gamma > 0 && mu != gamma) {
    return error(Code::InvalidSpec,
                 "momentum.mu and momentum.gamma: per-layer arrays of different lengths, %zu and %zu", mu, gamma);
  }
  if (moe_layers >= 0) {
    const size_t expected = static_cast<size_t>(moe_layers);
    if (mu > 0 && mu != expected) {
      return error(Code::InvalidSpec, "momentum.mu: expected one value per MoE layer (%d), got %zu", moe_layers, mu);
    }
    if (gamma > 0 && gamma != expected) {
      return error(Code::InvalidSpec, "momentum.gamma: expected one value per MoE layer (%d), got %zu", moe_layers,
                   gamma);
    }
  }
  if (spec.type != MomentumType::Adam) return {};
  for (int layer : spec.adam_layers) {
    if (layer < 0 || (moe_layers >= 0 && layer >= moe_layers)) {
      return error(Code::InvalidSpec, "momentum.adam_layers: %d is not a MoE layer", layer);
    }
  }
  return {};
}

Status check_mu(double mu) {
  if (std::fabs(mu) < 1) return {};
  return error(Code::InvalidSpec, "momentum.mu: expected a number between -1 and 1, got %g (the state diverges)", mu);
}

Status check_adam(const MomentumSpec& spec) {
  if (!(spec.beta1 >= 0 && spec.beta1 < 1)) {
    return error(Code::InvalidSpec, "momentum.beta1: expected a number in [0, 1), got %g", spec.beta1);
  }
  if (!(spec.beta2 >= 0 && spec.beta2 < 1)) {
    return error(Code::InvalidSpec, "momentum.beta2: expected a number in [0, 1), got %g", spec.beta2);
  }
  if (!(spec.eps >= FLT_MIN)) {  // 0 in f32 would divide 0 by 0 where the MoE output is 0
    return error(Code::InvalidSpec, "momentum.eps: expected a number above 1.2e-38, got %g", spec.eps);
  }
  return {};
}

// As sigma -> 0 the larger root of the step's characteristic polynomial tends to max(1, |alpha|), so |alpha| < 1 is
// needed; at sigma = L its constant term is alpha - eps*beta*L = 0, and up to 2L it stays below |alpha|: enough.
Status check_robust(double mu, double gamma, double L) {
  if (!(gamma > 1)) {
    return error(Code::InvalidSpec, "momentum.gamma: 'robust' needs gamma > 1 (it divides by gamma - 1), got %g",
                 gamma);
  }
  if (!(L > 0)) return error(Code::InvalidSpec, "momentum.L: expected a number > 0, got %g", L);
  const RobustConstants constants = robust_constants(mu, gamma, L);
  if (!(std::fabs(constants.alpha) < 1)) {
    return error(Code::InvalidSpec,
                 "momentum.mu, momentum.gamma: 'robust' with mu %g and gamma %g is unstable: alpha = "
                 "gamma*mu^3/(gamma-1) is %.4g, and must lie between -1 and 1",
                 mu, gamma, constants.alpha);
  }
  SMOE_RETURN_IF_ERROR(check_finite("L", constants.beta));
  return check_finite("L", constants.eps * constants.beta);
}

Status check_layer(const MomentumSpec& spec, int layer) {
  const double mu = at_layer(spec.mu_layers, spec.mu, layer);
  const double gamma = at_layer(spec.gamma_layers, spec.gamma, layer);
  SMOE_RETURN_IF_ERROR(check_mu(mu));
  if (spec.type == MomentumType::Robust) return check_robust(mu, gamma, spec.L);
  if (spec.type == MomentumType::Nesterov) return check_finite("gamma", gamma * mu);
  return {};
}

}  // namespace

MomentumSpec default_spec(MomentumType type) {
  MomentumSpec spec;
  spec.type = type;
  if (type == MomentumType::Complex) {
    spec.beta1 = 0.7;
    spec.beta2 = 0.1;
  }
  if (type == MomentumType::Robust) {
    spec.mu = 0.2;
    spec.gamma = 1.25;
  }
  return spec;
}

RobustConstants robust_constants(double mu, double gamma, double L) {
  const double shape = (1 - mu) * (1 - mu) * (1 + mu);
  return {mu * mu * mu / ((gamma - 1) * shape), gamma * shape / L, gamma * mu * mu * mu / (gamma - 1)};
}

Status validate(const MomentumSpec& spec, int moe_layers) {
  if (static_cast<int>(spec.type) < 0 || spec.type > MomentumType::Adam) {
    return error(Code::InvalidSpec, "momentum.type: unknown type %d", static_cast<int>(spec.type));
  }
  if (spec.type == MomentumType::None) return {};
  SMOE_RETURN_IF_ERROR(check_scalars(spec));
  SMOE_RETURN_IF_ERROR(check_lengths(spec, moe_layers));
  if (spec.type == MomentumType::Complex) {
    const double modulus = std::hypot(spec.beta1, spec.beta2);
    if (modulus < 1) return {};
    return error(Code::InvalidSpec, "momentum.beta1, momentum.beta2: |beta1 + i beta2| must be below 1, is %.4g",
                 modulus);
  }
  if (spec.type == MomentumType::Adam) SMOE_RETURN_IF_ERROR(check_adam(spec));
  const size_t layers = std::max<size_t>(1, std::max(spec.mu_layers.size(), spec.gamma_layers.size()));
  for (size_t layer = 0; layer < layers; ++layer) SMOE_RETURN_IF_ERROR(check_layer(spec, static_cast<int>(layer)));
  return {};
}

int state_tensors(const MomentumSpec& spec) {
  switch (spec.type) {
    case MomentumType::None:
      return 0;
    case MomentumType::HeavyBall:
    case MomentumType::Robust:
    case MomentumType::Nesterov:
      return 1;
    case MomentumType::Complex:
      return 2;
    case MomentumType::Adam:
      return 3;
  }
  return 0;
}

ResidualStep residual_step(const MomentumSpec& spec, int layer) {
  const double mu = at_layer(spec.mu_layers, spec.mu, layer);
  const double gamma = at_layer(spec.gamma_layers, spec.gamma, layer);
  ResidualStep step;
  step.kind = ResidualKind::Linear;
  step.first = layer == 0;
  step.a = static_cast<float>(mu);
  step.b = static_cast<float>(gamma);
  step.s = static_cast<float>(spec.sign);
  switch (spec.type) {
    case MomentumType::None:
      step.kind = ResidualKind::Add;
      break;
    case MomentumType::HeavyBall:
      break;
    case MomentumType::Complex:
      step.kind = ResidualKind::Complex;
      step.a = static_cast<float>(spec.beta1);
      step.a_im = static_cast<float>(spec.beta2);
      break;
    case MomentumType::Robust: {
      const RobustConstants constants = robust_constants(mu, gamma, spec.L);
      step.a = static_cast<float>(constants.alpha);
      step.b = static_cast<float>(spec.sign);
      step.s = static_cast<float>(constants.beta);
      break;
    }
    case MomentumType::Nesterov:
      step.b = static_cast<float>(spec.sign);
      step.s = static_cast<float>(gamma);
      break;
    case MomentumType::Adam:
      if (!adam_layer(spec, layer)) break;
      step.kind = ResidualKind::Adam;
      step.gamma1 = static_cast<float>(spec.gamma1);
      step.beta1 = static_cast<float>(spec.beta1);
      step.beta2 = static_cast<float>(spec.beta2);
      step.rest1 = static_cast<float>(1 - spec.beta1);
      step.rest2 = static_cast<float>(1 - spec.beta2);
      step.eps = static_cast<float>(spec.eps);
      step.kappa = static_cast<float>(spec.kappa);
      step.first_adam = *std::min_element(spec.adam_layers.begin(), spec.adam_layers.end()) == layer;
      break;
  }
  return step;
}

float lookahead(const MomentumSpec& spec, int layer) {
  if (layer == 0) return 0;
  const double mu = at_layer(spec.mu_layers, spec.mu, layer);
  const double gamma = at_layer(spec.gamma_layers, spec.gamma, layer);
  if (spec.type == MomentumType::Nesterov) return static_cast<float>(gamma * mu);
  if (spec.type != MomentumType::Robust) return 0;
  const RobustConstants constants = robust_constants(mu, gamma, spec.L);
  return static_cast<float>(constants.eps * constants.beta);
}

}  // namespace smoe
