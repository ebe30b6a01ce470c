#include "decoder/reference_attention.h"

#include <algorithm>
#include <cmath>

namespace smoe::reference {

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

void rms(const std::vector<float>& weight, double eps, size_t at, size_t width, std::vector<double>* x) {
  double sum = 0;
  for (size_t i = at; i < at + width; ++i) sum += (*x)[i] * (*x)[i];
  const double factor = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
  for (size_t i = 0; i < width; ++i) (*x)[at + i] *= factor * weight[i];
}

namespace {

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

Rows ordinary(const AttentionConfig& config, const AttentionWeights& weights, const Rows& x) {
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
      const double sink = weights.sinks.empty() ? -INFINITY : weights.sinks[head];
      const double top = std::max(sink, *std::max_element(score.begin(), score.end()));
      double sum = std::exp(sink - top);
      for (double& value : score) sum += value = std::exp(value - top);
      for (size_t j = first; j <= t; ++j)
        for (size_t i = 0; i < dim; ++i) mixed[head * dim + i] += score[j - first] / sum * v[j][kv + i];
    }
    out[t] = linear(weights.o, weights.o_bias, mixed);
  }
  return out;
}

// In the expanded form: every head's keys and values are made from the latents.
Rows latent(const AttentionConfig& config, const LatentWeights& weights, const Rows& x) {
  const LatentConfig& shape = config.latent;
  const size_t tokens = x.size(), heads = static_cast<size_t>(config.heads),
               window = static_cast<size_t>(config.window);
  const size_t nope = static_cast<size_t>(shape.nope_dim), rope = static_cast<size_t>(shape.rope_dim);
  const size_t rank = static_cast<size_t>(shape.kv_rank), dim = nope + rope;
  const auto turn = [&](size_t position, size_t at, std::vector<double>* row) {
    for (size_t i = 0; i < rope / 2; ++i) {
      double& a = (*row)[at + (shape.interleaved ? 2 * i : i)];
      double& b = (*row)[at + (shape.interleaved ? 2 * i + 1 : rope / 2 + i)];
      const double angle = static_cast<double>(position) * config.inv_freq[i], first = a;
      a = config.rope_scale * (a * std::cos(angle) - b * std::sin(angle));
      b = config.rope_scale * (b * std::cos(angle) + first * std::sin(angle));
    }
  };
  Rows q(tokens), latents(tokens), out(tokens);
  for (size_t t = 0; t < tokens; ++t) {
    std::vector<double> low = x[t];
    if (shape.q_rank > 0) {
      low = linear(weights.q_a, weights.q_a_bias, x[t]);
      rms(weights.q_norm, shape.norm_eps, 0, low.size(), &low);
    }
    q[t] = linear(weights.q_b, {}, low);
    for (size_t head = 0; head < heads; ++head) turn(t, head * dim + nope, &q[t]);
    latents[t] = linear(weights.kv_a, weights.kv_a_bias, x[t]);
    rms(weights.kv_norm, shape.norm_eps, 0, rank, &latents[t]);
    turn(t, rank, &latents[t]);
  }
  Rows mixed(tokens);
  for (size_t head = 0; head < heads; ++head) {
    Rows key(tokens, std::vector<double>(dim, 0)), value(tokens);
    std::vector<float> row(nope);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t c = 0; c < rank; ++c) {
        unpack_row(weights.key_up[head], static_cast<int64_t>(c), row.data());
        for (size_t i = 0; i < nope; ++i) key[t][i] += row[i] * latents[t][c];
      }
      for (size_t i = 0; i < rope; ++i) key[t][nope + i] = latents[t][rank + i];
      value[t] = linear(weights.value_up[head], {},
                        std::vector<double>(latents[t].begin(), latents[t].begin() + shape.kv_rank));
    }
    for (size_t t = 0; t < tokens; ++t) {
      const size_t first = window > 0 && t + 1 > window ? t + 1 - window : 0;
      std::vector<double> score;
      for (size_t j = first; j <= t; ++j) {
        double dot = 0;
        for (size_t i = 0; i < dim; ++i) dot += q[t][head * dim + i] * key[j][i];
        score.push_back(dot * config.scale);
      }
      const double top = *std::max_element(score.begin(), score.end());
      double sum = 0;
      for (double& weight : score) sum += weight = std::exp(weight - top);
      for (size_t i = 0; i < value[t].size(); ++i) {
        double total = 0;
        for (size_t j = first; j <= t; ++j) total += score[j - first] / sum * value[j][i];
        mixed[t].push_back(total);
      }
    }
  }
  for (size_t t = 0; t < tokens; ++t) out[t] = linear(weights.o, weights.o_bias, mixed[t]);
  return out;
}

}  // namespace

Rows attention(const DecoderLayer& layer, const Rows& x) {
  return layer.attention.latent.kv_rank > 0 ? latent(layer.attention, layer.latent_weights, x)
                                            : ordinary(layer.attention, layer.attention_weights, x);
}

}  // namespace smoe::reference
