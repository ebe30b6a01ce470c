// Latent attention of one layer over a cache of latents.
#pragma once

#include "decoder/attention.h"

namespace smoe {

size_t latent_attention_bytes(const AttentionConfig& config, int64_t hidden, int64_t tokens, int64_t end, int threads);
// Takes that much from the workspace and gives it back.
void latent_attention(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, Workspace& workspace);

}  // namespace smoe
