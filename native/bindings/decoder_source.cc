#include "bindings/decoder_source.h"

#include "bindings/convert.h"
#include "bindings/errors.h"
#include "bindings/momentum_spec.h"

namespace smoe {
namespace {

constexpr int64_t kMaxHidden = 1 << 24;
constexpr int64_t kMaxHeads = 1 << 16;

// Reads numbers of one object by key.
struct Numbers {
  napi_env env;
  napi_value object;
  const std::string& name;

  napi_value field(const char* key) const { return property(env, object, key, name.c_str()); }
  int64_t whole(const char* key, int64_t least, int64_t most) const {
    return integer(env, field(key), (name + "." + key).c_str(), least, most);
  }
  float real(const char* key) const { return static_cast<float>(number(env, field(key), (name + "." + key).c_str())); }
  float real_or(const char* key, float otherwise) const {
    const napi_value value = field(key);
    if (is_nullish(env, value)) return otherwise;
    return static_cast<float>(number(env, value, (name + "." + key).c_str()));
  }
};

}  // namespace

NormSource NormSource::parse(napi_env env, napi_value value, const std::string& name, int64_t hidden) {
  static const char* const kinds[] = {"rms", "layer"};
  const Numbers fields{env, value, name};
  NormSource source;
  source.kind = choice<NormKind>(env, fields.field("kind"), (name + ".kind").c_str(), kinds);
  source.eps = fields.real("eps");
  source.weight = TensorSource::parse(env, fields.field("weight"), name + ".weight", {hidden});
  parse_optional(env, value, "bias", name, {hidden}, &source.bias);
  return source;
}

void NormSource::pack_into(PackList& list, NormWeights* out) const {
  out->kind = kind;
  out->eps = eps;
  list.add(weight, &out->weight);
  list.add(bias, &out->bias);
}

AttentionSource AttentionSource::parse(napi_env env, napi_value value, const std::string& name, int64_t hidden) {
  static const char* const qk_norms[] = {"none", "per_head", "full"};
  const Numbers fields{env, value, name};
  AttentionSource source;
  AttentionConfig& config = source.config;
  config.heads = static_cast<int>(fields.whole("heads", 1, kMaxHeads));
  config.kv_heads = static_cast<int>(fields.whole("kvHeads", 1, config.heads));
  config.head_dim = static_cast<int>(fields.whole("headDim", 1, kMaxHeads));
  config.qk_norm = choice<QkNorm>(env, fields.field("qkNorm"), (name + ".qkNorm").c_str(), qk_norms);
  config.qk_norm_eps = fields.real_or("qkNormEps", config.qk_norm_eps);
  config.scale = fields.real("scale");
  config.clip_qkv = fields.real_or("clipQkv", 0);
  const napi_value window = fields.field("window");
  if (!is_nullish(env, window)) config.window = fields.whole("window", 0, INT32_MAX);
  config.rope_scale = fields.real_or("ropeScale", 1);

  const int64_t width = int64_t{config.heads} * config.head_dim, kv_width = int64_t{config.kv_heads} * config.head_dim;
  const auto matrix = [&](const char* key, int64_t rows, int64_t cols) {
    return TensorSource::parse(env, fields.field(key), name + "." + key, {rows, cols});
  };
  source.q = matrix("q", width, hidden);
  source.k = matrix("k", kv_width, hidden);
  source.v = matrix("v", kv_width, hidden);
  source.o = matrix("o", hidden, width);
  parse_optional(env, value, "qBias", name, {width}, &source.q_bias);
  parse_optional(env, value, "kBias", name, {kv_width}, &source.k_bias);
  parse_optional(env, value, "vBias", name, {kv_width}, &source.v_bias);
  parse_optional(env, value, "oBias", name, {hidden}, &source.o_bias);
  const bool full = config.qk_norm == QkNorm::Full;
  parse_optional(env, value, "qNorm", name, {full ? width : config.head_dim}, &source.q_norm);
  parse_optional(env, value, "kNorm", name, {full ? kv_width : config.head_dim}, &source.k_norm);

  const napi_value inv_freq = fields.field("invFreq");
  const TypedView view = typed_array(env, inv_freq, (name + ".invFreq").c_str(), napi_float32_array, kAnyLength);
  const float* data = static_cast<const float*>(view.data);
  config.inv_freq.assign(data, data + view.length);
  return source;
}

void AttentionSource::pack_into(PackList& list, DecoderLayer* out) const {
  out->attention = config;
  AttentionWeights& weights = out->attention_weights;
  list.add(q, &weights.q);
  list.add(k, &weights.k);
  list.add(v, &weights.v);
  list.add(o, &weights.o);
  list.add(q_bias, &weights.q_bias);
  list.add(k_bias, &weights.k_bias);
  list.add(v_bias, &weights.v_bias);
  list.add(o_bias, &weights.o_bias);
  list.add(q_norm, &weights.q_norm);
  list.add(k_norm, &weights.k_norm);
}

DecoderLayerSource DecoderLayerSource::parse(napi_env env, napi_value value, int64_t hidden) {
  DecoderLayerSource source;
  const auto field = [&](const char* key) { return property(env, value, key, "layer"); };
  source.attention_norm = NormSource::parse(env, field("attentionNorm"), "layer.attentionNorm", hidden);
  source.ffn_norm = NormSource::parse(env, field("ffnNorm"), "layer.ffnNorm", hidden);
  source.attention = AttentionSource::parse(env, field("attention"), "layer.attention", hidden);
  const napi_value moe = field("moe"), dense = field("dense");
  if (is_nullish(env, moe) == is_nullish(env, dense)) {
    throw_error(env, Code::InvalidArgument, "layer must have either moe or dense");
  }
  if (!is_nullish(env, moe)) {
    source.moe = MoeSource::parse(env, moe, "layer.moe");
    if (source.moe->config.hidden != hidden) {
      throw_error(env, Code::ShapeMismatch, "layer.moe.hidden must be %lld, got %lld", static_cast<long long>(hidden),
                  static_cast<long long>(source.moe->config.hidden));
    }
  } else {
    source.dense = ExpertSource::parse(env, dense, "layer.dense", hidden);
    source.dense_activation =
        parse_activation(env, property(env, dense, "activation", "layer.dense"), "layer.dense.activation");
  }
  return source;
}

void DecoderLayerSource::pack_into(PackList& list, Precision precision, DecoderLayer* out) const {
  attention_norm.pack_into(list, &out->attention_norm);
  ffn_norm.pack_into(list, &out->ffn_norm);
  attention.pack_into(list, out);
  if (moe.has_value()) {
    out->moe = std::make_unique<MoeLayer>();
    moe->pack_into(list, precision, out->moe.get());
  } else {
    out->dense = std::make_unique<ExpertWeights>();
    out->dense_activation = dense_activation;
    out->dense_glu = dense->glu();
    dense->pack_into(list, out->dense.get());
  }
}

DecoderHeadSource DecoderHeadSource::parse(napi_env env, napi_value value) {
  const std::string name = "head";
  const Numbers fields{env, value, name};
  DecoderHeadSource source;
  source.vocab = fields.whole("vocab", 1, INT32_MAX);
  source.hidden = fields.whole("hidden", 1, kMaxHidden);
  source.embedding =
      TensorSource::parse(env, fields.field("embedding"), "head.embedding", {source.vocab, source.hidden});
  parse_optional(env, value, "output", name, {source.vocab, source.hidden}, &source.output);
  source.final_norm = NormSource::parse(env, fields.field("finalNorm"), "head.finalNorm", source.hidden);
  const napi_value momentum = fields.field("momentum");
  if (!is_nullish(env, momentum)) source.momentum = parse_momentum(env, momentum, "head.momentum");
  return source;
}

void DecoderHeadSource::pack_into(PackList& list, Precision precision, Decoder* out) const {
  out->vocab = vocab;
  out->hidden = hidden;
  out->precision = precision;
  out->momentum = momentum;
  list.add(embedding, &out->embedding);
  list.add(output, &out->output);
  final_norm.pack_into(list, &out->final_norm);
}

}  // namespace smoe
