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

Status check_attention_config(const std::string& name, const AttentionConfig& config, const AttentionConfig& first) {
  if (config.heads <= 0 || config.kv_heads <= 0 || config.head_dim <= 0 || config.heads % config.kv_heads != 0) {
    return error(Code::InvalidArgument,
                 "%s needs positive heads, kvHeads and headDim with heads divisible by kvHeads, got %d, %d, %d",
                 name.c_str(), config.heads, config.kv_heads, config.head_dim);
  }
  // One KvCache holds all layers.
  if (config.kv_heads != first.kv_heads || config.head_dim != first.head_dim) {
    return error(Code::ShapeMismatch, "%s has %d KV heads of %d, but layer 0 has %d of %d", name.c_str(),
                 config.kv_heads, config.head_dim, first.kv_heads, first.head_dim);
  }
  if (2 * config.inv_freq.size() > static_cast<size_t>(config.head_dim)) {
    return error(Code::ShapeMismatch, "%s rotates %zu dimensions, but a head has %d", name.c_str(),
                 2 * config.inv_freq.size(), config.head_dim);
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

Status check_attention(const std::string& name, const DecoderLayer& layer, const AttentionConfig& first,
                       int64_t hidden) {
  const AttentionConfig& config = layer.attention;
  const AttentionWeights& weights = layer.attention_weights;
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
  SMOE_RETURN_IF_ERROR(check_eps(name + " qk norm", config.qk_norm_eps));
  const bool full = config.qk_norm == QkNorm::Full, none = config.qk_norm == QkNorm::None;
  const int64_t head = config.head_dim;
  SMOE_RETURN_IF_ERROR(check_vector(name + " q norm", weights.q_norm, none ? 0 : full ? q : head, true));
  return check_vector(name + " k norm", weights.k_norm, none ? 0 : full ? kv : head, true);
}

Status check_ffn(const std::string& name, const DecoderLayer& layer, int64_t hidden, Precision precision) {
  if ((layer.moe != nullptr) == (layer.dense != nullptr))
    return error(Code::InvalidArgument, "%s must have either experts or a dense feed-forward", name.c_str());
  if (layer.dense != nullptr)
    return validate_expert(*layer.dense, hidden, layer.dense_glu, (name + " dense feed-forward").c_str());
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

Status Decoder::validate() const {
  if (vocab <= 0 || hidden <= 0 || vocab > INT32_MAX || hidden > INT32_MAX) {
    return error(Code::InvalidArgument, "vocab and hidden must be positive 32-bit sizes, got %lld and %lld", ll{vocab},
                 ll{hidden});
  }
  SMOE_RETURN_IF_ERROR(check_matrix("embedding", embedding, vocab, hidden));
  if (!output.empty()) SMOE_RETURN_IF_ERROR(check_matrix("output", output, vocab, hidden));
  SMOE_RETURN_IF_ERROR(check_norm("final norm", final_norm, hidden));
  if (layers.empty()) return error(Code::InvalidArgument, "a decoder needs at least one layer");
  for (size_t index = 0; index < layers.size(); ++index) {
    const DecoderLayer& layer = layers[index];
    const std::string name = "layer " + std::to_string(index);
    SMOE_RETURN_IF_ERROR(check_norm(name + " attention norm", layer.attention_norm, hidden));
    SMOE_RETURN_IF_ERROR(check_norm(name + " feed-forward norm", layer.ffn_norm, hidden));
    SMOE_RETURN_IF_ERROR(check_attention(name + " attention", layer, layers[0].attention, hidden));
    SMOE_RETURN_IF_ERROR(check_ffn(name, layer, hidden, precision));
  }
  return smoe::validate(momentum, moe_layers());
}

}  // namespace smoe
