// Both kinds of attention of decoder_source.h.
#include "bindings/decoder_source.h"
#include "bindings/errors.h"
#include "bindings/fields.h"

namespace smoe {
namespace {

constexpr int64_t kMaxHeads = 1 << 16;
constexpr int64_t kMaxRank = 1 << 20;

// Taken last: getters of other properties could detach the array.
std::vector<float> frequencies(const Fields& fields) {
  const std::string name = fields.name + ".invFreq";
  const TypedView view = typed_array(fields.env, fields.field("invFreq"), name.c_str(), napi_float32_array, kAnyLength);
  const float* data = static_cast<const float*>(view.data);
  return std::vector<float>(data, data + view.length);
}

}  // namespace

AttentionSource AttentionSource::parse(napi_env env, napi_value value, const std::string& name, int64_t hidden) {
  static const char* const qk_norms[] = {"none", "per_head", "full"};
  const Fields fields{env, value, name};
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
  parse_optional(env, value, "sinks", name, {config.heads}, &source.sinks);
  parse_optional(env, value, "qNorm", name, {full ? width : config.head_dim}, &source.q_norm);
  parse_optional(env, value, "kNorm", name, {full ? kv_width : config.head_dim}, &source.k_norm);

  config.inv_freq = frequencies(fields);
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
  list.add(sinks, &weights.sinks);
}

LatentAttentionSource LatentAttentionSource::parse(napi_env env, napi_value value, const std::string& name,
                                                   int64_t hidden) {
  const Fields fields{env, value, name};
  LatentAttentionSource source;
  AttentionConfig& config = source.config;
  LatentConfig& latent = config.latent;
  const auto whole = [&](const char* key, int64_t least, int64_t most) {
    return static_cast<int>(fields.whole(key, least, most));
  };
  config.heads = config.kv_heads = whole("heads", 1, kMaxHeads);
  latent.q_rank = whole("qRank", 0, kMaxRank);
  latent.kv_rank = whole("kvRank", 1, kMaxRank);
  latent.nope_dim = whole("nopeDim", 1, kMaxHeads);
  latent.rope_dim = whole("ropeDim", 0, kMaxRopeDim);
  latent.v_dim = whole("valueDim", 1, kMaxHeads);
  latent.norm_eps = fields.real("normEps");
  latent.interleaved = boolean(env, fields.field("interleavedRope"), (name + ".interleavedRope").c_str());
  config.head_dim = latent.nope_dim + latent.rope_dim;
  config.scale = fields.real("scale");
  config.rope_scale = fields.real_or("ropeScale", 1);

  const int64_t heads = config.heads, up = latent.nope_dim + latent.v_dim;
  const auto matrix = [&](const char* key, int64_t rows, int64_t cols) {
    return TensorSource::parse(env, fields.field(key), name + "." + key, {rows, cols});
  };
  const auto vector = [&](const char* key, int64_t length) {
    return TensorSource::parse(env, fields.field(key), name + "." + key, {length});
  };
  if (latent.q_rank > 0) {
    source.q_a = matrix("qA", latent.q_rank, hidden);
    source.q_norm = vector("qNorm", latent.q_rank);
    parse_optional(env, value, "qABias", name, {latent.q_rank}, &source.q_a_bias);
  }
  source.q_b = matrix("qB", heads * config.head_dim, latent.q_rank > 0 ? latent.q_rank : hidden);
  source.kv_a = matrix("kvA", latent.key_dim(), hidden);
  source.kv_norm = vector("kvNorm", latent.kv_rank);
  parse_optional(env, value, "kvABias", name, {latent.key_dim()}, &source.kv_a_bias);
  const TensorSource kv_b = matrix("kvB", heads * up, latent.kv_rank);
  for (int64_t head = 0; head < heads; head++) {
    source.key_up.push_back(kv_b.part(head * up, latent.nope_dim, true));
    source.value_up.push_back(kv_b.part(head * up + latent.nope_dim, latent.v_dim, false));
  }
  source.o = matrix("o", hidden, heads * latent.v_dim);
  parse_optional(env, value, "oBias", name, {hidden}, &source.o_bias);
  config.inv_freq = frequencies(fields);
  return source;
}

void LatentAttentionSource::pack_into(PackList& list, DecoderLayer* out) const {
  out->attention = config;
  LatentWeights& weights = out->latent_weights;
  weights.key_up.resize(key_up.size());
  weights.value_up.resize(value_up.size());
  for (size_t head = 0; head < key_up.size(); head++) {
    list.add(key_up[head], &weights.key_up[head]);
    list.add(value_up[head], &weights.value_up[head]);
  }
  list.add(q_a, &weights.q_a);
  list.add(q_b, &weights.q_b);
  list.add(kv_a, &weights.kv_a);
  list.add(o, &weights.o);
  list.add(q_a_bias, &weights.q_a_bias);
  list.add(kv_a_bias, &weights.kv_a_bias);
  list.add(o_bias, &weights.o_bias);
  list.add(q_norm, &weights.q_norm);
  list.add(kv_norm, &weights.kv_norm);
}

}  // namespace smoe
