// Every shape of a decoder against every other, before anything runs on it.
#include <cmath>

#include "decoder/decoder.h"

namespace smoe {
namespace {

using ll = long long;

Status check_matrix(const std::string& name, const PackedMatrix& matrix, int64_t rows, int64_t cols) {
  if (matrix.rows == rows && matrix.cols == cols) return Status();
  return error(Code::ShapeMismatch, "%s must be [%lld, %lld], got [%lld, %lld]", name.c_str(), ll{rows}, ll{cols},
               ll{matrix.rows}, ll{matrix.cols});
}

Status check_vector(const std::string& name, const std::vector<float>& vector, int64_t length, bool required) {
  const int64_t size = static_cast<int64_t>(vector.size());
  if (size == length || (size == 0 && !required)) return Status();
  return error(Code::ShapeMismatch, "%s must be [%lld], got [%lld]", name.c_str(), ll{length}, ll{size});
}

Status check_eps(const std::string& name, float eps) {
  if (std::isfinite(eps) && eps >= 0) return Status();
  return error(Code::InvalidArgument, "%s eps must be finite and not negative, got %g", name.c_str(),
               static_cast<double>(eps));
}

Status check_norm(const std::string& name, const NormWeights& norm, int64_t hidden) {
  SMOE_RETURN_IF_ERROR(check_eps(name, norm.eps));
  SMOE_RETURN_IF_ERROR(check_vector(name + " weight", norm.weight, hidden, true));
  if (norm.kind == NormKind::Rms && !norm.bias.empty())
    return error(Code::InvalidArgument, "%s is an RMS norm and takes no bias", name.c_str());
  return check_vector(name + " bias", norm.bias, hidden, false);
}

// What ordinary and latent attention have in common, for parts of `rotary` dimensions.
Status check_common(const std::string& name, const AttentionConfig& config, const AttentionConfig& first, int rotary) {
  // One KvCache holds all layers.
  const KvShape own = config.cache_shape(), wanted = first.cache_shape();
  if (!(own == wanted)) {
    return error(Code::ShapeMismatch, "%s caches %d heads of %d + %d, but layer 0 %d of %d + %d", name.c_str(),
                 own.kv_heads, own.key_dim, own.value_dim, wanted.kv_heads, wanted.key_dim, wanted.value_dim);
  }
  if (2 * config.inv_freq.size() > static_cast<size_t>(rotary)) {
    return error(Code::ShapeMismatch, "%s rotates %zu dimensions, but a head has %d", name.c_str(),
                 2 * config.inv_freq.size(), rotary);
  }
  if (config.window < 0) {
    return error(Code::InvalidArgument, "%s window must not be negative, got %lld", name.c_str(), ll{config.window});
  }
  for (const float value : {config.scale, config.clip_qkv, config.rope_scale}) {
    if (!std::isfinite(value) || value < 0) {
      return error(Code::InvalidArgument, "%s scale, clip and rope scale must be finite and not negative, got %g",
                   name.c_str(), static_cast<double>(value));
    }
  }
  return Status();
}

Status check_attention_config(const std::string& name, const AttentionConfig& config, const AttentionConfig& first) {
  if (config.heads <= 0 || config.kv_heads <= 0 || config.head_dim <= 0 || config.heads % config.kv_heads != 0) {
    return error(Code::InvalidArgument,
                 "%s needs positive heads, kvHeads and headDim with heads divisible by kvHeads, got %d, %d, %d",
                 name.c_str(), config.heads, config.kv_heads, config.head_dim);
  }
  return check_common(name, config, first, config.head_dim);
}

Status check_latent(const std::string& name, const DecoderLayer& layer, const AttentionConfig& first, int64_t hidden) {
  const AttentionConfig& config = layer.attention;
  const LatentConfig& latent = config.latent;
  const LatentWeights& weights = layer.latent_weights;
  if (config.heads <= 0 || latent.q_rank < 0 || latent.kv_rank < 0 || latent.nope_dim <= 0 || latent.rope_dim < 0 ||
      latent.rope_dim > kMaxRopeDim || latent.v_dim <= 0) {
    return error(Code::InvalidArgument,
                 "%s needs positive heads, kvRank, nopeDim and valueDim and at most %d rotated dimensions, got %d, %d, "
                 "%d, %d and %d",
                 name.c_str(), kMaxRopeDim, config.heads, latent.kv_rank, latent.nope_dim, latent.v_dim,
                 latent.rope_dim);
  }
  if (2 * config.inv_freq.size() != static_cast<size_t>(latent.rope_dim)) {
    return error(Code::ShapeMismatch, "%s has %d rotated dimensions, but %zu frequencies", name.c_str(),
                 latent.rope_dim, config.inv_freq.size());
  }
  SMOE_RETURN_IF_ERROR(check_common(name, config, first, latent.rope_dim));
  const int64_t heads = config.heads, q_rank = latent.q_rank, kv_rank = latent.kv_rank;
  if (q_rank > 0) SMOE_RETURN_IF_ERROR(check_matrix(name + " q_a", weights.q_a, q_rank, hidden));
  SMOE_RETURN_IF_ERROR(check_matrix(name + " q_b", weights.q_b, heads * (latent.nope_dim + latent.rope_dim),
                                    q_rank > 0 ? q_rank : hidden));
  SMOE_RETURN_IF_ERROR(check_matrix(name + " kv_a", weights.kv_a, latent.key_dim(), hidden));
  if (static_cast<int64_t>(weights.key_up.size()) != heads || static_cast<int64_t>(weights.value_up.size()) != heads) {
    return error(Code::ShapeMismatch, "%s must have %lld heads, got %zu keys and %zu values", name.c_str(), ll{heads},
                 weights.key_up.size(), weights.value_up.size());
  }
  for (size_t head = 0; head < weights.key_up.size(); ++head) {
    const std::string own = name + " head " + std::to_string(head);
    SMOE_RETURN_IF_ERROR(check_matrix(own + " keys", weights.key_up[head], kv_rank, latent.nope_dim));
    SMOE_RETURN_IF_ERROR(check_matrix(own + " values", weights.value_up[head], latent.v_dim, kv_rank));
  }
  SMOE_RETURN_IF_ERROR(check_matrix(name + " o", weights.o, hidden, heads * latent.v_dim));
  SMOE_RETURN_IF_ERROR(check_vector(name + " q norm", weights.q_norm, q_rank, true));
  SMOE_RETURN_IF_ERROR(check_vector(name + " kv norm", weights.kv_norm, kv_rank, true));
  SMOE_RETURN_IF_ERROR(check_vector(name + " q_a bias", weights.q_a_bias, q_rank, false));
  SMOE_RETURN_IF_ERROR(check_vector(name + " kv_a bias", weights.kv_a_bias, latent.key_dim(), false));
  SMOE_RETURN_IF_ERROR(check_vector(name + " o bias", weights.o_bias, hidden, false));
  return check_eps(name + " latent norm", latent.norm_eps);
}

Status check_attention(const std::string& name, const DecoderLayer& layer, const AttentionConfig& first,
                       int64_t hidden) {
  const AttentionConfig& config = layer.attention;
  const AttentionWeights& weights = layer.attention_weights;
  if (config.latent.kv_rank != 0) return check_latent(name, layer, first, hidden);
  SMOE_RETURN_IF_ERROR(check_attention_config(name, config, first));
  const int64_t q = int64_t{config.heads} * config.head_dim, kv = int64_t{config.kv_heads} * config.head_dim;
  SMOE_RETURN_IF_ERROR(check_matrix(name + " q", weights.q, q, hidden));
  SMOE_RETURN_IF_ERROR(check_matrix(name + " k", weights.k, kv, hidden));
  SMOE_RETURN_IF_ERROR(check_matrix(name + " v", weights.v, kv, hidden));
  SMOE_RETURN_IF_ERROR(check_matrix(name + " o", weights.o, hidden, q));
  SMOE_RETURN_IF_ERROR(check_vector(name + " q bias", weights.q_bias, q, false));
  SMOE_RETURN_IF_ERROR(check_vector(name + " k bias", weights.k_bias, kv, false));
  SMOE_RETURN_IF_ERROR(check_vector(name + " v bias", weights.v_bias, kv, false));
  SMOE_RETURN_IF_ERROR(check_vector(name + " o bias", weights.o_bias, hidden, false));
  SMOE_RETURN_IF_ERROR(check_vector(name + " sinks", weights.sinks, config.heads, false));
  SMOE_RETURN_IF_ERROR(check_eps(name + " qk norm", config.qk_norm_eps));
  const bool full = config.qk_norm == QkNorm::Full, none = config.qk_norm == QkNorm::None;
  const int64_t head = config.head_dim;
  SMOE_RETURN_IF_ERROR(check_vector(name + " q norm", weights.q_norm, none ? 0 : full ? q : head, true));
  return check_vector(name + " k norm", weights.k_norm, none ? 0 : full ? kv : head, true);
}

Status check_ffn(const std::string& name, const DecoderLayer& layer, int64_t hidden, Precision precision) {
  if ((layer.moe != nullptr) == (layer.dense != nullptr))
    return error(Code::InvalidArgument, "%s must have either experts or a dense feed-forward", name.c_str());
  if (layer.dense != nullptr) {
    const std::string dense = name + " dense feed-forward";
    SMOE_RETURN_IF_ERROR(validate_activation(layer.dense_activation, layer.dense_glu, dense.c_str()));
    return validate_expert(*layer.dense, hidden, layer.dense_glu, dense.c_str());
  }
  if (layer.moe->config.hidden != hidden) {
    return error(Code::ShapeMismatch, "%s experts take hidden size %lld, the model has %lld", name.c_str(),
                 ll{layer.moe->config.hidden}, ll{hidden});
  }
  if (layer.moe->config.precision != precision)
    return error(Code::InvalidArgument, "%s experts have another precision than the model", name.c_str());
  const Status status = layer.moe->validate();
  return status.ok() ? status : Status(status.code(), name + " " + status.message());
}

}  // namespace

Status Decoder::validate_ends() const {
  if (vocab <= 0 || hidden <= 0 || vocab > INT32_MAX || hidden > INT32_MAX) {
    return error(Code::InvalidArgument, "vocab and hidden must be positive 32-bit sizes, got %lld and %lld", ll{vocab},
                 ll{hidden});
  }
  SMOE_RETURN_IF_ERROR(check_matrix("embedding", embedding, vocab, hidden));
  if (!output.empty()) SMOE_RETURN_IF_ERROR(check_matrix("output", output, vocab, hidden));
  return check_norm("final norm", final_norm, hidden);
}

Status Decoder::validate_layer(const DecoderLayer& layer, size_t index) const {
  const std::string name = "layer " + std::to_string(index);
  const AttentionConfig& first = index == 0 ? layer.attention : layers[0].attention;
  SMOE_RETURN_IF_ERROR(check_norm(name + " attention norm", layer.attention_norm, hidden));
  SMOE_RETURN_IF_ERROR(check_norm(name + " feed-forward norm", layer.ffn_norm, hidden));
  SMOE_RETURN_IF_ERROR(check_attention(name + " attention", layer, first, hidden));
  return check_ffn(name, layer, hidden, precision);
}

Status Decoder::validate() const {
  SMOE_RETURN_IF_ERROR(validate_ends());
  if (layers.empty()) return error(Code::InvalidArgument, "a decoder needs at least one layer");
  for (size_t index = 0; index < layers.size(); ++index) SMOE_RETURN_IF_ERROR(validate_layer(layers[index], index));
  return smoe::validate(momentum, moe_layers());
}

}  // namespace smoe
