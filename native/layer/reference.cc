#include "layer/reference.h"

#include <algorithm>
#include <cmath>

namespace smoe::reference {

namespace {

// The values that a matrix sees of a row. `slack` receives, per value, how far it may move when the row's values are
// not quite these: one step of int8, where a value near a rounding boundary may fall to the other side.
std::vector<double> seen(const PackedMatrix& matrix, bool fast, const std::vector<float>& row,
                         std::vector<double>* slack) {
  const RowLayout layout = row_layout(matrix, fast ? Precision::Fast : Precision::Exact);
  std::vector<double> out(row.begin(), row.end());
  slack->assign(row.size(), 0);
  if (layout.kind == RowKind::Bf16) {
    for (size_t k = 0; k < row.size(); ++k) out[k] = bf16_to_f32(f32_to_bf16(row[k]));
  }
  if (layout.kind != RowKind::Int8) return out;
  const size_t group = static_cast<size_t>(layout.group);
  for (size_t first = 0; first < row.size(); first += group) {
    float amax = 0;
    for (size_t k = first; k < first + group; ++k) amax = std::max(amax, std::fabs(row[k]));
    const float scale = amax / 127.0f, inverse = amax > 0 ? 127.0f / amax : 0.0f;
    for (size_t k = first; k < first + group; ++k) {
      out[k] = scale * static_cast<double>(std::nearbyint(row[k] * inverse));
      (*slack)[k] = scale;
    }
  }
  return out;
}

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

void expert(const ExpertWeights& weights, Activation act, bool fast, const float* input, double scale,
            std::vector<double>* y, std::vector<double>* y_abs) {
  std::vector<float> row(static_cast<size_t>(weights.up.cols));
  for (size_t k = 0; k < row.size(); ++k) row[k] = input[k] * static_cast<float>(scale);
  std::vector<double> slack;
  const std::vector<double> x = seen(weights.up, fast, row, &slack);
  std::vector<double> x_abs(x.size()), gate, gate_abs, up, up_abs;
  for (size_t k = 0; k < x.size(); ++k) x_abs[k] = std::fabs(x[k]);
  affine(weights.up, weights.up_bias, x, x_abs, &up, &up_abs);
  std::vector<double> h(up.size()), h_abs(up.size());
  if (weights.gate.empty()) {
    for (size_t i = 0; i < h.size(); ++i) {
      h[i] = activate(act, up[i]);
      h_abs[i] = 1.2 * up_abs[i] * (act == Activation::Relu2 ? 2 * up_abs[i] + 1 : 1);
    }
  } else {
    affine(weights.gate, weights.gate_bias, x, x_abs, &gate, &gate_abs);
    for (size_t i = 0; i < h.size(); ++i) {
      h[i] = activate(act, gate[i]) * up[i];
      // |act(g)| <= |g| and |act'| <= 1.2 for every activation used with a gate
      h_abs[i] = 1.2 * gate_abs[i] * up_abs[i] + 1e-30;
    }
  }
  h = seen(weights.down, fast, std::vector<float>(h.begin(), h.end()), &slack);
  // The tests allow 2^-8 of the magnitude in fast.
  for (size_t i = 0; i < h.size(); ++i) h_abs[i] += 256 * slack[i];
  affine(weights.down, weights.down_bias, h, h_abs, y, y_abs);
}

}  // namespace

std::vector<double> moe(const MoeLayer& layer, const std::vector<float>& hidden, const std::vector<int32_t>& ids,
                        const std::vector<float>& weights, int slots, bool fast, std::vector<double>* magnitude) {
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
      expert(layer.experts[static_cast<size_t>(ids[pair])], layer.config.activation, fast, &hidden[t * h],
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
      expert(layer.shared[0], layer.config.activation, fast, &hidden[t * h], 1.0, &y, &y_abs);
      add(factor);
    }
  }
  if (magnitude != nullptr) *magnitude = scale;
  return out;
}

}  // namespace smoe::reference
