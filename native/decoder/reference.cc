#include "decoder/reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "decoder/reference_attention.h"
#include "layer/reference.h"

namespace smoe::reference {
namespace {

std::vector<double> normed(const NormWeights& norm, std::vector<double> x) {
  if (norm.kind == NormKind::Rms) {
    rms(norm.weight, norm.eps, 0, x.size(), &x);
    return x;
  }
  const double n = static_cast<double>(x.size()), mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  double variance = 0;
  for (double value : x) variance += (value - mean) * (value - mean) / n;
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = (x[i] - mean) / std::sqrt(variance + norm.eps) * norm.weight[i];
    if (!norm.bias.empty()) x[i] += norm.bias[i];
  }
  return x;
}

std::vector<double> dense(const DecoderLayer& layer, const std::vector<double>& x) {
  const ExpertWeights& weights = *layer.dense;
  std::vector<double> h = linear(weights.up, weights.up_bias, x);
  if (weights.gate.empty()) {
    for (double& unit : h) unit = activate(layer.dense_activation.kind, unit);
  } else {
    const std::vector<double> gate = linear(weights.gate, weights.gate_bias, x);
    for (size_t i = 0; i < h.size(); ++i) h[i] = glu(layer.dense_activation, gate[i], h[i]);
  }
  return linear(weights.down, weights.down_bias, h);
}

// MoE output of one token; the experts themselves are layer/reference.cc's.
std::vector<double> moe_token(const MoeLayer& layer, const std::vector<double>& x, Pass* pass) {
  const RouterConfig& router = layer.config.router;
  const std::vector<double> logits = linear(layer.router_weight, layer.router_bias, x);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; };
  std::stable_sort(order.begin(), order.end(), better);
  const size_t k = static_cast<size_t>(router.k);
  if (k < order.size())
    pass->router_margin = std::min(pass->router_margin, logits[size_t(order[k - 1])] - logits[size_t(order[k])]);
  double all = 0, kept = 0;
  for (double logit : logits) all += std::exp(logit - logits[size_t(order[0])]);
  std::vector<double> score;
  for (size_t slot = 0; slot < k; ++slot) {
    const double logit = logits[size_t(order[slot])];
    score.push_back(router.score == ScoreFn::Softmax ? std::exp(logit - logits[size_t(order[0])]) / all
                                                     : 1 / (1 + std::exp(-logit)));
    kept += score.back();
  }
  order.resize(k);
  std::vector<float> weights;
  for (double value : score)
    weights.push_back(static_cast<float>((router.norm_p == 1 ? value / kept : value) * router.scale));
  pass->ids.insert(pass->ids.end(), order.begin(), order.end());
  return moe(layer, std::vector<float>(x.begin(), x.end()), order, weights, router.k, false, nullptr);
}

struct State {
  std::vector<double> m, m_im, p, v;
};

// As kernels/kernel_table.h defines the steps; y is an element of the MoE output, x of the residual stream.
void momentum_step(const MomentumSpec& spec, int layer, double y, size_t i, State* s, double* x) {
  const auto pick = [&](const std::vector<double>& list, double scalar) {
    return list.empty() ? scalar : list[static_cast<size_t>(layer)];
  };
  const double mu = pick(spec.mu_layers, spec.mu), gamma = pick(spec.gamma_layers, spec.gamma);
  double& m = s->m[i];
  switch (spec.type) {
    case MomentumType::None:
      *x += y;
      return;
    case MomentumType::HeavyBall:
      m = mu * m + gamma * y;
      *x += spec.sign * m;
      return;
    case MomentumType::Complex: {
      const double re = spec.beta1 * m - spec.beta2 * s->m_im[i] + gamma * y;
      s->m_im[i] = spec.beta2 * m + spec.beta1 * s->m_im[i];
      m = re;
      *x += spec.sign * m;
      return;
    }
    case MomentumType::Robust:
      m = gamma * mu * mu * mu / (gamma - 1) * m + spec.sign * y;
      *x += gamma * (1 - mu) * (1 - mu) * (1 + mu) / spec.L * m;
      return;
    case MomentumType::Nesterov:
      m = mu * m + spec.sign * y;
      *x += gamma * m;
      return;
    case MomentumType::Adam: {
      const auto& list = spec.adam_layers;
      m = mu * m + gamma * y;
      if (std::find(list.begin(), list.end(), layer) == list.end()) {
        *x += spec.sign * m;
        return;
      }
      s->p[i] = spec.beta1 * s->p[i] + (1 - spec.beta1) * y;
      s->v[i] = spec.beta2 * s->v[i] + (1 - spec.beta2) * y * y;
      *x = (1 - spec.kappa) * *x + spec.sign * spec.gamma1 * s->p[i] / std::sqrt(s->v[i] + spec.eps);
      return;
    }
  }
}

double lookahead_factor(const MomentumSpec& spec, int layer) {
  const auto pick = [&](const std::vector<double>& list, double scalar) {
    return list.empty() ? scalar : list[std::min(static_cast<size_t>(layer), list.size() - 1)];
  };
  const double mu = pick(spec.mu_layers, spec.mu), gamma = pick(spec.gamma_layers, spec.gamma);
  if (spec.type == MomentumType::Nesterov) return gamma * mu;
  if (spec.type == MomentumType::Robust) return gamma * mu * mu * mu / (gamma - 1) / spec.L;
  return 0;
}

}  // namespace

Pass decoder(const Decoder& model, const std::vector<int32_t>& ids) {
  const size_t tokens = ids.size(), h = static_cast<size_t>(model.hidden);
  Pass pass;
  Rows x(tokens), u(tokens);
  for (size_t t = 0; t < tokens; ++t) {
    std::vector<float> row(h);
    unpack_row(model.embedding, ids[t], row.data());
    x[t].assign(row.begin(), row.end());
  }
  const std::vector<double> zero(h, 0);
  std::vector<State> states(tokens, State{zero, zero, zero, zero});
  int moe_index = 0;
  for (const DecoderLayer& layer : model.layers) {
    for (size_t t = 0; t < tokens; ++t) u[t] = normed(layer.attention_norm, x[t]);
    const Rows attended = attention(layer, u);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < h; ++i) x[t][i] += attended[t][i];
      std::vector<double> input = normed(layer.ffn_norm, x[t]);
      for (size_t i = 0; i < h; ++i) input[i] += lookahead_factor(model.momentum, moe_index) * states[t].m[i];
      const std::vector<double> y = layer.moe != nullptr ? moe_token(*layer.moe, input, &pass) : dense(layer, input);
      for (size_t i = 0; i < h; ++i) {
        if (layer.moe != nullptr)
          momentum_step(model.momentum, moe_index, y[i], i, &states[t], &x[t][i]);
        else
          x[t][i] += y[i];
      }
    }
    moe_index += layer.moe != nullptr;
  }
  for (size_t t = 0; t < tokens; ++t) {
    const std::vector<double> logits =
        linear(model.output.empty() ? model.embedding : model.output, {}, normed(model.final_norm, x[t]));
    pass.logits.insert(pass.logits.end(), logits.begin(), logits.end());
  }
  return pass;
}

}  // namespace smoe::reference
