// MomentumSMoE specs: parameters as a user writes them, and the residual step each layer takes.
#pragma once

#include <vector>

#include "core/status.h"
#include "kernels/kernel_table.h"

namespace smoe {

enum class MomentumType : int { None = 0, HeavyBall = 1, Complex = 2, Robust = 3, Nesterov = 4, Adam = 5 };

// As written by a user, in double: robust constants and 1-beta2 are derived before anything is rounded to f32.
struct MomentumSpec {
  MomentumType type = MomentumType::None;
  double mu = 0.7, gamma = 1, sign = -1;
  double beta1 = 0.9, beta2 = 0.999, gamma1 = 1, eps = 1e-8, kappa = 1, L = 1;  // 0.7 and 0.1 for Complex
  std::vector<double> mu_layers, gamma_layers;  // per MoE layer (code form), or empty: the scalar for all
  std::vector<int> adam_layers = {0};
};

// The defaults of a type. Robust has none that are valid in the authors' class (gamma = 1 divides by zero): it gets
// the published configuration, mu 0.2 and gamma 1.25.
MomentumSpec default_spec(MomentumType type);

// Refuses what diverges or divides by zero. Negative mu is a method of the family; |mu| >= 1 is refused, because the
// state then grows without bound over depth. With moe_layers given, per-layer arrays must have that length.
Status validate(const MomentumSpec& spec, int moe_layers = -1);

// Constants of the Robust Momentum Method (specs/momentum.md 3.5); gamma > 1.
struct RobustConstants {
  double eps, beta, alpha;
};
RobustConstants robust_constants(double mu, double gamma, double L);

// State tensors the type needs: 0, 1 (m), 2 (m, m_im) or 3 (m, p, v).
int state_tensors(const MomentumSpec& spec);
// The step of MoE layer `layer` (counted over MoE layers, from 0, in the order of depth).
ResidualStep residual_step(const MomentumSpec& spec, int layer);
// c of u = N(h) + c*m: added to the layer's normed input before router and experts; 0 for the other types and in layer
// 0, where m is zero by definition and its buffer must not be read.
float lookahead(const MomentumSpec& spec, int layer);

}  // namespace smoe
