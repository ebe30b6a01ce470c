#include "decoder/reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "layer/reference.h"

namespace smoe::reference {
namespace {

using Rows = std::vector<std::vector<double>>;  // [T][width]

std::vector<double> linear(const PackedMatrix& weight, const std::vector<float>& bias, const std::vector<double>& x) {
  std::vector<double> y(static_cast<size_t>(weight.rows), 0);
  std::vector<float> row(static_cast<size_t>(weight.cols));
  for (size_t n = 0; n < y.size(); ++n) {
    unpack_row(weight, static_cast<int64_t>(n), row.data());
    for (size_t k = 0; k < row.size(); ++k) y[n] += static_cast<double>(row[k]) * x[k];
    if (!bias.empty()) y[n] += bias[n];
  }
  return y;
}

// RMS norm of x[at, at + width) in place.
void rms(const std::vector<float>& weight, double eps, size_t at, size_t width, std::vector<double>* x) {
  double sum = 0;
  for (size_t i = at; i < at + width; ++i) sum += (*x)[i] * (*x)[i];
  const double factor = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
  for (size_t i = 0; i < width; ++i) (*x)[at + i] *= factor * weight[i];
}

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

void prepare_heads(const AttentionConfig& config, const std::vector<float>& norm, size_t position, bool rotate,
                   std::vector<double>* x) {
  const size_t dim = static_cast<size_t>(config.head_dim), half = config.inv_freq.size();
  if (config.qk_norm == QkNorm::Full && rotate) rms(norm, config.qk_norm_eps, 0, x->size(), x);
  for (size_t at = 0; at < x->size() && config.qk_norm == QkNorm::PerHead && rotate; at += dim)
    rms(norm, config.qk_norm_eps, at, dim, x);
  if (config.clip_qkv > 0)
    for (double& value : *x) value = std::clamp<double>(value, -config.clip_qkv, config.clip_qkv);
  for (size_t at = 0; at < x->size() && rotate; at += dim) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * config.inv_freq[i], factor = config.rope_scale;
      const double a = (*x)[at + i], b = (*x)[at + half + i];
      (*x)[at + i] = factor * (a * std::cos(angle) - b * std::sin(angle));
      (*x)[at + half + i] = factor * (b * std::cos(angle) + a * std::sin(angle));
    }
  }
}

Rows attention(const AttentionConfig& config, const AttentionWeights& weights, const Rows& x) {
  const size_t tokens = x.size(), dim = static_cast<size_t>(config.head_dim), heads = static_cast<size_t>(config.heads);
  const size_t group = heads / static_cast<size_t>(config.kv_heads), window = static_cast<size_t>(config.window);
  Rows q(tokens), k(tokens), v(tokens), out(tokens);
  for (size_t t = 0; t < tokens; ++t) {
    q[t] = linear(weights.q, weights.q_bias, x[t]);
    k[t] = linear(weights.k, weights.k_bias, x[t]);
    v[t] = linear(weights.v, weights.v_bias, x[t]);
    prepare_heads(config, weights.q_norm, t, true, &q[t]);
    prepare_heads(config, weights.k_norm, t, true, &k[t]);
    prepare_heads(config, {}, t, false, &v[t]);
    std::vector<double> mixed(heads * dim, 0);
    for (size_t head = 0; head < heads; ++head) {
      const size_t kv = head / group * dim;
      const size_t first = window > 0 && t + 1 > window ? t + 1 - window : 0;
      std::vector<double> score;
      for (size_t j = first; j <= t; ++j) {
        double dot = 0;
        for (size_t i = 0; i < dim; ++i) dot += q[t][head * dim + i] * k[j][kv + i];
        score.push_back(dot * config.scale);
      }
      const double top = *std::max_element(score.begin(), score.end());
      double sum = 0;
      for (double& value : score) sum += value = std::exp(value - top);
      for (size_t j = first; j <= t; ++j)
        for (size_t i = 0; i < dim; ++i) mixed[head * dim + i] += score[j - first] / sum * v[j][kv + i];
    }
    out[t] = linear(weights.o, weights.o_bias, mixed);
  }
  return out;
}

std::vector<double> dense(const DecoderLayer& layer, const std::vector<double>& x) {
  const ExpertWeights& weights = *layer.dense;
  std::vector<double> h = linear(weights.up, weights.up_bias, x);
  if (weights.gate.empty()) {
    for (double& unit : h) unit = activate(layer.dense_activation, unit);
  } else {
    const std::vector<double> gate = linear(weights.gate, weights.gate_bias, x);
    for (size_t i = 0; i < h.size(); ++i) h[i] *= activate(layer.dense_activation, gate[i]);
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
    const Rows attended = attention(layer.attention, layer.attention_weights, u);
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
