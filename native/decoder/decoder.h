// The transformer around the MoE layers: embedding, attention with a KV cache, dense layers, final norm, logits.
// It exists so that a real checkpoint can be run and measured; it stays smaller than the MoE part.
#pragma once

#include <memory>
#include <vector>

#include "core/cancel.h"
#include "core/workspace.h"
#include "decoder/kv_cache.h"
#include "decoder/latent.h"
#include "layer/moe_layer.h"
#include "layer/momentum.h"

namespace smoe {

enum class NormKind : int { Rms = 0, Layer = 1 };

struct NormWeights {
  NormKind kind = NormKind::Rms;
  float eps = 1e-6f;
  std::vector<float> weight, bias;  // [H]; bias may be empty
};

enum class QkNorm : int {
  None = 0,
  PerHead = 1,
  Full = 2
};  // Full: over all heads' elements of a token together (OLMoE)

// Order: projection, bias, qk norm, clip, rotation (that of OLMoE, the one architecture with both norm and clip).
struct AttentionConfig {
  int heads = 0, kv_heads = 0, head_dim = 0;
  QkNorm qk_norm = QkNorm::None;
  float qk_norm_eps = 1e-6f;
  float scale = 0;              // score factor, usually head_dim^-0.5
  float clip_qkv = 0;           // clamp q, k, v to +-clip; 0 = off
  int64_t window = 0;           // sliding window in tokens; 0 = all
  std::vector<float> inv_freq;  // [rotary_dim / 2], scaling already applied
  float rope_scale = 1;         // factor on cos and sin (YaRN's attention factor)
  // With a kv_rank: latent attention, which reads heads, scale, window, inv_freq and rope_scale of the above only.
  LatentConfig latent;

  KvShape cache_shape() const {
    return latent.kv_rank > 0 ? KvShape{1, latent.key_dim(), 0} : KvShape{kv_heads, head_dim, head_dim};
  }
};

struct AttentionWeights {
  PackedMatrix q, k, v, o;
  std::vector<float> q_bias, k_bias, v_bias, o_bias;  // or empty
  std::vector<float> q_norm, k_norm;                  // [head_dim] or [heads*head_dim]; or empty
  std::vector<float> sinks;                           // [heads] score of nothing at all (gpt-oss); or empty
};

struct DecoderLayer {
  NormWeights attention_norm, ffn_norm;
  AttentionConfig attention;
  AttentionWeights attention_weights;
  LatentWeights latent_weights;          // in place of attention_weights with attention.latent
  std::unique_ptr<MoeLayer> moe;         // a MoE layer, or
  std::unique_ptr<ExpertWeights> dense;  // a dense feed-forward
  ActivationSpec dense_activation;
  bool dense_glu = true;
};

// What a trace of one MoE layer holds; all f32 unless said. Sized by the decoder.
struct LayerTrace {
  int layer = 0;  // index over all layers
  int slots = 0, experts = 0;
  std::vector<float> input;          // [T, H] normed MoE input (after look-ahead)
  std::vector<float> residual_in;    // [T, H]
  std::vector<float> router_logits;  // [T, E]
  std::vector<int32_t> ids, count;   // [T, K], [T]
  std::vector<float> weights;        // [T, K]
  std::vector<float> output;         // [T, H] before the residual
  std::vector<float> residual_out;   // [T, H]
  std::vector<float> momentum_out;   // [T, H] or empty
};

class Decoder {
 public:
  int64_t vocab = 0, hidden = 0;
  Precision precision = Precision::Fast;
  PackedMatrix embedding;  // [V, H]
  PackedMatrix output;     // [V, H]; empty = tied to the embedding
  NormWeights final_norm;
  MomentumSpec momentum;
  std::vector<DecoderLayer> layers;

  // Refuses shapes that do not agree, naming layer and tensor; call once after filling the fields.
  Status validate() const;
  // Its parts, for who takes a decoder layer by layer: all but the layers, and one layer, of which layer 0 has what the
  // cache needs to know.
  Status validate_ends() const;
  Status validate_layer(const DecoderLayer& layer, size_t index) const;
  size_t bytes() const;
  int moe_layers() const;
  int64_t max_experts() const;  // over the MoE layers: the row length of Forward::expert_counts
  KvCache make_cache(int64_t capacity) const;

  struct Forward {
    const int32_t* ids = nullptr;
    int64_t tokens = 0;
    KvCache* cache = nullptr;          // from make_cache(); appended to, on failure left as it was
    bool all_logits = false;           // logits of every token, else of the last one
    float* logits = nullptr;           // [T or 1, V] or null
    double* nll = nullptr;             // [T] nll[t] = -log softmax(logits_t)[targets[t]], or null
    const int32_t* targets = nullptr;  // [T], with nll
    std::vector<LayerTrace>* trace = nullptr;
    uint64_t* expert_counts = nullptr;  // [MoE layers, max_experts()] row-major, added to (also by a call that fails)
    // [MoE layers, max_experts()]: as MoeLayer::Forward::expert_bits; null: all planes.
    const uint8_t* expert_bits = nullptr;
    const CancelFlag* cancel = nullptr;
  };
  // Token ids are checked; a failed or cancelled call leaves the cache at its former length. Long inputs are cut
  // into chunks, so that scratch stays bounded. A token's bits depend on its own prefix only: not on the cuts, the
  // threads, or whether the prefix came in this call or an earlier one.
  Status forward(const Forward& args, const KernelTable& kernels, ThreadPool& pool, Workspace& workspace) const;
};

}  // namespace smoe
