// MomentumSMoE specs: parameters as a user writes them, and the residual step each layer takes.
#pragma once

#include <vector>

#include "core/status.h"
#include "kernels/kernel_table.h"

namespace smoe {

enum class MomentumType : int { None = 0, HeavyBall = 1, Complex = 2, Robust = 3, Nesterov = 4, Adam = 5 };

struct MomentumSpec {
  MomentumType type = MomentumType::None;
  float mu = 0.7f, gamma = 1, sign = -1;
  float beta1 = 0.9f, beta2 = 0.999f, gamma1 = 1, eps = 1e-8f, kappa = 1, L = 1;
  std::vector<float> mu_layers, gamma_layers;  // per MoE layer, or empty
  std::vector<int> adam_layers = {0};
};

Status validate(const MomentumSpec& spec);
// State tensors the type needs: 0, 1 (m), 2 (m, m_im) or 3 (m, p, v).
int state_tensors(const MomentumSpec& spec);
// The step of MoE layer `layer` (counted over MoE layers, from 0).
ResidualStep residual_step(const MomentumSpec& spec, int layer);
// c of u = N(h) + c*m: added to the layer's normed input before router and experts; 0 for the other types.
float lookahead(const MomentumSpec& spec, int layer);

}  // namespace smoe
