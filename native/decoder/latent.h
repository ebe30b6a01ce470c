// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are linear maps of one
// latent vector per token, and the rotated part of the key is shared by the heads.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/packed_matrix.h"

namespace smoe {

// Bounds a stack array.
constexpr int kMaxRopeDim = 512;

struct LatentConfig {
  int q_rank = 0;   // 0: queries come straight from the hidden state
  int kv_rank = 0;  // 0: not latent attention
  int nope_dim = 0, rope_dim = 0, v_dim = 0;
  float norm_eps = 1e-6f;
  bool interleaved = true;  // rotated pairs lie side by side (2i, 2i + 1), not half a part from each other

  int key_dim() const { return kv_rank + rope_dim; }  // what the cache keeps per token
};

struct LatentWeights {
  PackedMatrix q_a;                    // [q_rank, H]; empty with q_rank 0
  PackedMatrix q_b;                    // [heads * (nope_dim + rope_dim), q_rank or H]
  PackedMatrix kv_a;                   // [kv_rank + rope_dim, H]
  std::vector<PackedMatrix> key_up;    // per head [kv_rank, nope_dim]: queries into the space of the latents
  std::vector<PackedMatrix> value_up;  // per head [v_dim, kv_rank]: mixed latents out of it
  PackedMatrix o;                      // [H, heads * v_dim]
  std::vector<float> q_norm, kv_norm;  // [q_rank], [kv_rank]
  std::vector<float> q_a_bias, kv_a_bias, o_bias;  // or empty

  size_t bytes() const;
};

}  // namespace smoe
