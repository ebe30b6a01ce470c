// Arguments of the CUDA kernels of attention.
#pragma once

#include "cuda/operands.h"

namespace smoe::cu {

// Which elements a head's rotation pairs: (i, i + half) or (2i, 2i + 1).
struct RopeArgs {
  const float* inv_freq = nullptr;  // [half], scaling applied
  int half = 0;                     // 0: no rotation
  float scale = 1;                  // of cos and sin
  bool interleaved = false;
};

enum class HeadNorm : int { None = 0, PerHead = 1, Full = 2 };

// After the projection of q, k and v in one matrix: norm, clip and rotation of one token; q in place, k and v into the
// cache. Angles are made in double as decoder/rope.cc makes them.
struct QkvFinishArgs {
  float* qkv = nullptr;  // [T, (heads + 2 kv_heads) * head_dim]: q heads, k heads, v heads
  int heads = 0, kv_heads = 0, head_dim = 0;
  HeadNorm norm = HeadNorm::None;
  float norm_eps = 0;
  const float* q_norm = nullptr;  // [head_dim], or with Full [heads * head_dim]
  const float* k_norm = nullptr;
  float clip = 0;  // 0: off
  RopeArgs rope;   // not interleaved
  const StepInput* step = nullptr;
  int64_t max_tokens = 0;
  KvPages cache;
};

// Latent attention (DeepSeek): norm of the latent and rotation of the shared key part, into the cache; the rotated part
// of every query head behind the room for its latent part; the other part of the queries as planes, for key_up.
struct LatentFinishArgs {
  const float* q = nullptr;        // [T, heads * (nope_dim + rope_dim)]
  const float* kv = nullptr;       // [T, kv_rank + rope_dim]
  const float* kv_norm = nullptr;  // [kv_rank]
  float norm_eps = 0;
  int heads = 0, kv_rank = 0, nope_dim = 0, rope_dim = 0;
  RopeArgs rope;
  const StepInput* step = nullptr;
  int64_t max_tokens = 0;
  KvPages cache;              // kv_heads 1, key_dim kv_rank + rope_dim, value_dim 0
  Planes q_nope;              // [T, heads * nope_dim]
  float* q_latent = nullptr;  // [T, heads * (kv_rank + rope_dim)]: elements from kv_rank of each head are written
};

// Softmax attention of every row and head over the cache, positions up to the row's own. A row's keys are added in an
// order that depends on its position alone, and nothing that a row does not see touches its bits, NaN included. So
// attend_prefill gives the same bits wherever a prompt is cut, and attend_split whatever else is in the batch (with the
// same `splits`). The two add in different orders, and differ by roundings: over an f32 cache by those of f32, over a
// bf16 cache by those of queries and exponentials, which attend_prefill alone rounds to bf16. value_dim: at most 512.
struct AttendArgs {
  const float* q = nullptr;  // rows of q_stride; head h at h * key_dim
  int64_t q_stride = 0;
  int heads = 0;
  int value_dim = 0;  // of the result, also where cache.value_dim is 0
  KvPages cache;
  float scale = 1;
  int64_t window = 0;            // 0: all positions
  const float* sinks = nullptr;  // [heads] or null
  const StepInput* step = nullptr;
  int64_t max_tokens = 0;
  // Decode (attend_split, then attend_merge): split s of a row takes pages [pages * s / splits, pages * (s+1) / splits)
  // of those with a position that it sees. Without partial (splits 1), attend_split writes out itself.
  int splits = 1;
  float* partial = nullptr;  // scratch [T, heads, splits, value_dim + 2]: sums, largest score, sum of exponentials
  Planes out;                // [T, heads * value_dim]
};

}  // namespace smoe::cu
