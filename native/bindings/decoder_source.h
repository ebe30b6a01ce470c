// NativeDecoderHead and NativeDecoderLayer, parsed on the JS thread and built on the op thread.
#pragma once

#include <napi.h>

#include <optional>
#include <string>

#include "bindings/moe_source.h"
#include "decoder/decoder.h"

namespace smoe {

struct NormSource {
  NormKind kind = NormKind::Rms;
  float eps = 0;
  TensorSource weight, bias;

  static NormSource parse(napi_env env, napi_value value, const std::string& name, int64_t hidden);
  void pack_into(PackList& list, NormWeights* out) const;
};

struct AttentionSource {
  AttentionConfig config;
  TensorSource q, k, v, o, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks;

  static AttentionSource parse(napi_env env, napi_value value, const std::string& name, int64_t hidden);
  void pack_into(PackList& list, DecoderLayer* out) const;
};

struct LatentAttentionSource {
  AttentionConfig config;
  TensorSource q_a, q_b, kv_a, o, q_a_bias, kv_a_bias, o_bias, q_norm, kv_norm;
  std::vector<TensorSource> key_up, value_up;  // views of kv_b, per head

  static LatentAttentionSource parse(napi_env env, napi_value value, const std::string& name, int64_t hidden);
  void pack_into(PackList& list, DecoderLayer* out) const;
};

struct DecoderLayerSource {
  NormSource attention_norm, ffn_norm;
  std::optional<AttentionSource> attention;  // one of these
  std::optional<LatentAttentionSource> latent_attention;
  std::optional<MoeSource> moe;
  std::optional<ExpertSource> dense;
  ActivationSpec dense_activation;

  static DecoderLayerSource parse(napi_env env, napi_value value, int64_t hidden);
  void pack_into(PackList& list, Precision precision, DecoderLayer* out) const;
};

struct DecoderHeadSource {
  int64_t vocab = 0, hidden = 0;
  TensorSource embedding, output;
  NormSource final_norm;
  MomentumSpec momentum;

  static DecoderHeadSource parse(napi_env env, napi_value value);
  void pack_into(PackList& list, Precision precision, Decoder* out) const;
};

}  // namespace smoe
