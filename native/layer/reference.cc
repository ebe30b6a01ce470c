#include "layer/reference.h"

#include <cmath>

namespace smoe::reference {

namespace {

double rounded(double x, bool bf16) { return bf16 ? bf16_to_f32(f32_to_bf16(static_cast<float>(x))) : x; }

// y = W x + b and the same over absolute values.
void affine(const PackedMatrix& weight, const std::vector<float>& bias, const std::vector<double>& x,
            const std::vector<double>& x_abs, std::vector<double>* y, std::vector<double>* y_abs) {
  std::vector<float> row(static_cast<size_t>(weight.cols));
  y->assign(static_cast<size_t>(weight.rows), 0);
  y_abs->assign(static_cast<size_t>(weight.rows), 0);
  for (int64_t n = 0; n < weight.rows; ++n) {
    const size_t i = static_cast<size_t>(n);
    unpack_row(weight, n, row.data());
    for (size_t k = 0; k < row.size(); ++k) {
      (*y)[i] += row[k] * x[k];
      (*y_abs)[i] += std::fabs(row[k]) * x_abs[k];
    }
    if (!bias.empty()) {
      (*y)[i] += bias[i];
      (*y_abs)[i] += std::fabs(bias[i]);
    }
  }
}

void expert(const ExpertWeights& weights, const ActivationSpec& act, bool bf16_rows, const float* input, double scale,
            std::vector<double>* y, std::vector<double>* y_abs) {
  const bool bf16_x = bf16_rows && weights.up.format == WeightFormat::BF16;
  const bool bf16_h = bf16_rows && weights.down.format == WeightFormat::BF16;
  std::vector<double> x(static_cast<size_t>(weights.up.cols)), x_abs(x.size()), gate, gate_abs, up, up_abs;
  for (size_t k = 0; k < x.size(); ++k) {
    x[k] = rounded(static_cast<float>(input[k] * static_cast<float>(scale)), bf16_x);
    x_abs[k] = std::fabs(x[k]);
  }
  affine(weights.up, weights.up_bias, x, x_abs, &up, &up_abs);
  std::vector<double> h(up.size()), h_abs(up.size());
  if (weights.gate.empty()) {
    for (size_t i = 0; i < h.size(); ++i) {
      h[i] = activate(act.kind, up[i]);
      h_abs[i] = 1.2 * up_abs[i] * (act.kind == Activation::Relu2 ? 2 * up_abs[i] + 1 : 1);
    }
  } else {
    affine(weights.gate, weights.gate_bias, x, x_abs, &gate, &gate_abs);
    for (size_t i = 0; i < h.size(); ++i) {
      h[i] = glu(act, gate[i], up[i]);
      // |act(g)| <= |g| and |act'| <= 1.2 for every activation used with a gate; bounds do not stretch
      h_abs[i] = 1.2 * gate_abs[i] * (up_abs[i] + std::fabs(act.beta)) + 1e-30;
    }
  }
  for (double& unit : h) unit = rounded(unit, bf16_h);
  affine(weights.down, weights.down_bias, h, h_abs, y, y_abs);
}

}  // namespace

std::vector<double> moe(const MoeLayer& layer, const std::vector<float>& hidden, const std::vector<int32_t>& ids,
                        const std::vector<float>& weights, int slots, bool bf16_rows, std::vector<double>* magnitude) {
  const size_t h = static_cast<size_t>(layer.config.hidden), tokens = hidden.size() / h;
  std::vector<double> out(tokens * h, 0), scale(tokens * h, 0), y, y_abs;
  for (size_t t = 0; t < tokens; ++t) {
    const auto add = [&](double factor) {
      for (size_t i = 0; i < h; ++i) {
        out[t * h + i] += factor * y[i];
        scale[t * h + i] += std::fabs(factor) * y_abs[i];
      }
    };
    for (int slot = 0; slot < slots; ++slot) {
      const size_t pair = t * static_cast<size_t>(slots) + static_cast<size_t>(slot);
      if (ids[pair] < 0) continue;
      const bool on_input = layer.config.router.weight_on_input;
      expert(layer.experts[static_cast<size_t>(ids[pair])], layer.config.activation, bf16_rows, &hidden[t * h],
             on_input ? weights[pair] : 1.0, &y, &y_abs);
      add(on_input ? 1.0 : weights[pair]);
    }
    if (!layer.shared.empty()) {
      double factor = 1;
      if (!layer.shared_gate.empty()) {
        std::vector<float> row(h);
        unpack_row(layer.shared_gate, 0, row.data());
        double logit = 0;
        for (size_t i = 0; i < h; ++i) logit += static_cast<double>(row[i]) * hidden[t * h + i];
        factor = 1 / (1 + std::exp(-logit));
      }
      expert(layer.shared[0], layer.config.activation, bf16_rows, &hidden[t * h], 1.0, &y, &y_abs);
      add(factor);
    }
  }
  if (magnitude != nullptr) *magnitude = scale;
  return out;
}

}  // namespace smoe::reference
