// What lies between the projections, for one unit (kernel_table.h, ActivationSpec).
#pragma once

#include "cuda/cu.h"
#include "kernels/kernel_table.h"

namespace smoe::cu {

SMOE_DEVICE float activate_plain(Activation kind, float x, float alpha = 1) {
  switch (kind) {
    case Activation::Silu:
      return fast_divide(x, 1 + fast_exp(-alpha * x));
    case Activation::GeluTanh:
      return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));  // sqrt(2/pi)
    case Activation::GeluErf:
      return 0.5f * x * (1 + erff(x * 0.7071067812f));  // sqrt(1/2)
    case Activation::Relu:
      return x > 0 || x != x ? x : 0.0f;
    case Activation::Relu2:
      return x > 0 || x != x ? x * x : 0.0f;
    case Activation::Identity:
      return x;
  }
  return x;
}

// Comparisons rather than fminf, which would drop a NaN.
SMOE_DEVICE float activate_glu(const ActivationSpec& spec, float gate, float up) {
  const float g = gate > spec.limit ? spec.limit : gate;
  const float u = up > spec.limit ? spec.limit : up < -spec.limit ? -spec.limit : up;
  return activate_plain(spec.kind, g, spec.alpha) * (u + spec.beta);
}

// The same where spec.kind is known to be Silu.
SMOE_DEVICE float activate_silu(const ActivationSpec& spec, float gate, float up) {
  ActivationSpec known = spec;
  known.kind = Activation::Silu;
  return activate_glu(known, gate, up);
}

}  // namespace smoe::cu
