// Self-attention of one layer over a KV cache.
#pragma once

#include "core/workspace.h"
#include "decoder/decoder.h"
#include "decoder/rope.h"

namespace smoe {

struct AttentionArgs {
  const AttentionConfig* config = nullptr;
  const AttentionWeights* weights = nullptr;
  const LatentWeights* latent_weights = nullptr;  // instead, with config->latent
  Precision precision = Precision::Fast;
  const float* x = nullptr;  // [tokens, H] normed input
  int64_t tokens = 0;
  int64_t position = 0;      // of the first token
  KvCache* cache = nullptr;  // reserved up to position + tokens; keys and values of `layer` are written
  int layer = 0;
  const RopeTable* rope = nullptr;
  float* out = nullptr;  // [tokens, H]
};

// `end` is position + tokens.
size_t attention_bytes(const AttentionConfig& config, int64_t hidden, int64_t tokens, int64_t end, int threads);
// Takes that much from the workspace and gives it back.
void attention(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, Workspace& workspace);

}  // namespace smoe
