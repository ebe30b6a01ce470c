// Random decoders of a few thousand parameters, for tests.
#pragma once

#include <cmath>
#include <random>

#include "decoder/decoder.h"

namespace smoe::test {

struct TinyOptions {
  int heads = 4, kv_heads = 2, head_dim = 12, rotary_half = 4;  // 12: no whole vector; rotation of a part of the head
  QkNorm qk_norm = QkNorm::None;
  bool biases = false, tied = false, shared = false;
  NormKind norm = NormKind::Rms;
  int64_t window = 0;
  float clip = 0;
  bool sinks = false;
  LatentConfig latent;  // with a kv_rank: instead of the heads above
  ActivationSpec activation;
  const char* pattern = "mdm";  // one letter per layer: m MoE, d dense
  MomentumSpec momentum;
  WeightFormat format = WeightFormat::BF16;
  Precision precision = Precision::Exact;
  unsigned seed = 1;
};

class TinyDecoder {
 public:
  explicit TinyDecoder(const TinyOptions& options) : options_(options), engine_(options.seed) {}

  Decoder build() {
    Decoder model;
    model.vocab = 61;  // prime: no whole tile
    model.hidden = kHidden;
    model.precision = options_.precision;
    model.embedding = matrix(model.vocab, kHidden, 1);
    if (!options_.tied) model.output = matrix(model.vocab, kHidden, 1 / std::sqrt(float{kHidden}));
    model.final_norm = norm();
    model.momentum = options_.momentum;
    for (const char* kind = options_.pattern; *kind != '\0'; ++kind) model.layers.push_back(layer(*kind == 'm'));
    return model;
  }

 private:
  static constexpr int kHidden = 40, kExperts = 5, kWidth = 22;

  std::vector<float> vector(int64_t n, float scale, float mean = 0) {
    std::normal_distribution<float> normal(mean, scale);
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) value = normal(engine_);
    return out;
  }
  std::vector<float> bias(int64_t n) { return options_.biases ? vector(n, 0.3f) : std::vector<float>(); }
  PackedMatrix matrix(int64_t rows, int64_t cols, float scale) {
    const std::vector<float> values = vector(rows * cols, scale);
    PackedMatrix packed;
    (void)pack({values.data(), Dtype::F32, rows, cols}, options_.format, &packed).ok();
    return packed;
  }
  PackedMatrix map(int64_t rows, int64_t cols) { return matrix(rows, cols, 1 / std::sqrt(static_cast<float>(cols))); }
  NormWeights norm() {
    NormWeights norm;
    norm.kind = options_.norm;
    norm.weight = vector(kHidden, 0.1f, 1);
    if (norm.kind == NormKind::Layer) norm.bias = bias(kHidden);
    return norm;
  }
  ExpertWeights expert() {
    ExpertWeights weights;
    weights.gate = map(kWidth, kHidden);
    weights.up = map(kWidth, kHidden);
    weights.down = map(kHidden, kWidth);
    weights.gate_bias = bias(kWidth);
    weights.up_bias = bias(kWidth);
    weights.down_bias = bias(kHidden);
    return weights;
  }
  std::unique_ptr<MoeLayer> moe() {
    auto moe = std::make_unique<MoeLayer>();
    moe->config.hidden = kHidden;
    moe->config.precision = options_.precision;
    moe->config.activation = options_.activation;
    moe->config.router.experts = kExperts;
    moe->config.router.k = 2;
    moe->config.router.norm_p = 1;
    moe->router_weight = map(kExperts, kHidden);
    moe->router_bias = bias(kExperts);
    for (int i = 0; i < kExperts; ++i) moe->experts.push_back(expert());
    if (options_.shared) moe->shared.push_back(expert());
    return moe;
  }
  DecoderLayer layer(bool experts) {
    DecoderLayer layer;
    layer.attention_norm = norm();
    layer.ffn_norm = norm();
    AttentionConfig& config = layer.attention;
    config.heads = options_.heads;
    config.kv_heads = options_.kv_heads;
    config.head_dim = options_.head_dim;
    config.qk_norm = options_.qk_norm;
    config.scale = 1 / std::sqrt(static_cast<float>(config.head_dim));
    config.window = options_.window;
    config.clip_qkv = options_.clip;
    config.latent = options_.latent;
    const int half = config.latent.kv_rank > 0 ? config.latent.rope_dim / 2 : options_.rotary_half;
    for (int i = 0; i < half; ++i)
      config.inv_freq.push_back(std::pow(100.0f, -static_cast<float>(i) / static_cast<float>(half)));
    if (config.latent.kv_rank > 0)
      layer.latent_weights = latent(config);
    else
      layer.attention_weights = ordinary(config);
    layer.dense_activation = options_.activation;
    if (experts)
      layer.moe = moe();
    else
      layer.dense = std::make_unique<ExpertWeights>(expert());
    return layer;
  }
  AttentionWeights ordinary(const AttentionConfig& config) {
    const int64_t q = int64_t{config.heads} * config.head_dim, kv = int64_t{config.kv_heads} * config.head_dim;
    AttentionWeights weights;
    weights.q = map(q, kHidden);
    weights.k = map(kv, kHidden);
    weights.v = map(kv, kHidden);
    weights.o = map(kHidden, q);
    weights.q_bias = bias(q);
    weights.k_bias = bias(kv);
    weights.v_bias = bias(kv);
    weights.o_bias = bias(kHidden);
    if (config.qk_norm != QkNorm::None) {
      const bool full = config.qk_norm == QkNorm::Full;
      weights.q_norm = vector(full ? q : config.head_dim, 0.1f, 1);
      weights.k_norm = vector(full ? kv : config.head_dim, 0.1f, 1);
    }
    if (options_.sinks) weights.sinks = vector(config.heads, 1);
    return weights;
  }
  LatentWeights latent(const AttentionConfig& config) {
    const LatentConfig& shape = config.latent;
    LatentWeights weights;
    if (shape.q_rank > 0) {
      weights.q_a = map(shape.q_rank, kHidden);
      weights.q_a_bias = bias(shape.q_rank);
      weights.q_norm = vector(shape.q_rank, 0.1f, 1);
    }
    weights.q_b = map(config.heads * (shape.nope_dim + shape.rope_dim), shape.q_rank > 0 ? shape.q_rank : kHidden);
    weights.kv_a = map(shape.key_dim(), kHidden);
    weights.kv_a_bias = bias(shape.key_dim());
    weights.kv_norm = vector(shape.kv_rank, 0.1f, 1);
    for (int head = 0; head < config.heads; ++head) {
      weights.key_up.push_back(map(shape.kv_rank, shape.nope_dim));
      weights.value_up.push_back(map(shape.v_dim, shape.kv_rank));
    }
    weights.o = map(kHidden, config.heads * shape.v_dim);
    weights.o_bias = bias(kHidden);
    return weights;
  }

  TinyOptions options_;
  std::mt19937 engine_;
};

// Sizes of which none is a multiple of a vector; the values are narrower than the keys.
inline LatentConfig tiny_latent() {
  LatentConfig latent;
  latent.q_rank = 18;
  latent.kv_rank = 21;
  latent.nope_dim = 10;
  latent.rope_dim = 6;
  latent.v_dim = 9;
  return latent;
}

// The clamped and shifted SwiGLU of gpt-oss, with a limit that units of these sizes reach.
inline ActivationSpec tiny_clamped() {
  ActivationSpec activation;
  activation.alpha = 1.702f;
  activation.limit = 0.9f;
  activation.beta = 1;
  return activation;
}

inline Decoder tiny(const TinyOptions& options) { return TinyDecoder(options).build(); }

inline std::vector<int32_t> random_ids(size_t count, int64_t vocab, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(engine() % static_cast<unsigned>(vocab));
  return ids;
}

// Every momentum type with constants that keep a deep random model tame.
inline std::vector<MomentumSpec> every_momentum() {
  std::vector<MomentumSpec> specs;
  for (const MomentumType type : {MomentumType::None, MomentumType::HeavyBall, MomentumType::Complex,
                                  MomentumType::Robust, MomentumType::Nesterov, MomentumType::Adam})
    specs.push_back(default_spec(type));
  specs.push_back(default_spec(MomentumType::Nesterov));
  specs.back().mu_layers = {0.7, 0.5};
  specs.back().gamma_layers = {1, 0.8};
  return specs;
}

}  // namespace smoe::test
