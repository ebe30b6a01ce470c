#include "bindings/decoder_source.h"

#include "bindings/convert.h"
#include "bindings/errors.h"
#include "bindings/fields.h"
#include "bindings/momentum_spec.h"

namespace smoe {
namespace {

constexpr int64_t kMaxHidden = 1 << 24;

}  // namespace

NormSource NormSource::parse(napi_env env, napi_value value, const std::string& name, int64_t hidden) {
  static const char* const kinds[] = {"rms", "layer"};
  const Fields fields{env, value, name};
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

DecoderLayerSource DecoderLayerSource::parse(napi_env env, napi_value value, int64_t hidden) {
  DecoderLayerSource source;
  const auto field = [&](const char* key) { return property(env, value, key, "layer"); };
  source.attention_norm = NormSource::parse(env, field("attentionNorm"), "layer.attentionNorm", hidden);
  source.ffn_norm = NormSource::parse(env, field("ffnNorm"), "layer.ffnNorm", hidden);
  const napi_value attention = field("attention"), latent = field("latentAttention");
  if (is_nullish(env, attention) == is_nullish(env, latent)) {
    throw_error(env, Code::InvalidArgument, "layer must have either attention or latentAttention");
  }
  if (!is_nullish(env, attention)) {
    source.attention = AttentionSource::parse(env, attention, "layer.attention", hidden);
  } else {
    source.latent_attention = LatentAttentionSource::parse(env, latent, "layer.latentAttention", hidden);
  }
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
    source.dense_activation = parse_activation(env, dense, "layer.dense");
  }
  return source;
}

void DecoderLayerSource::pack_into(PackList& list, Precision precision, DecoderLayer* out) const {
  attention_norm.pack_into(list, &out->attention_norm);
  ffn_norm.pack_into(list, &out->ffn_norm);
  if (attention.has_value()) attention->pack_into(list, out);
  if (latent_attention.has_value()) latent_attention->pack_into(list, out);
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
  const Fields fields{env, value, name};
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
