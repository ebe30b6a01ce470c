// What one chunk of tokens carries through the layers: its rows on the workspace, and the arguments made from them.
#pragma once

#include "core/workspace.h"
#include "decoder/decoder.h"
#include "decoder/head.h"
#include "decoder/rope.h"

namespace smoe {

// Most tokens that go through the layers together. Scratch grows with it, and weights are read once per chunk: at
// 512 rows a weight byte has met 512 multiply-adds, far past where arithmetic and not memory is the limit.
constexpr int64_t kChunkTokens = 512;

struct Chunk {
  float* x = nullptr;   // [n, H] residual stream
  float* u = nullptr;   // [n, H] normed input of a sub-layer
  float* y = nullptr;   // [n, H] output of a sub-layer
  ResidualState state;  // [n, H] momentum, zero before the first MoE layer: it travels up the depth, not along time
  RopeTable rope;
};

// Bytes for the chunk and for the widest stage; `end` is the position after the last token of the call.
size_t chunk_bytes(const Decoder& decoder, int64_t tokens, int64_t end, int threads);
Chunk take_chunk(const Decoder& decoder, int64_t tokens, Workspace& workspace);

// c of u += c*m; 0: no look-ahead, and m may not have been written. `moe_index` is the number of MoE layers below.
float look_ahead_factor(const Decoder& decoder, int moe_index);
// u += c*m of robust and Nesterov momentum, before the feed-forward of MoE and dense layers alike.
void look_ahead(const Decoder& decoder, const KernelTable& kernels, ThreadPool& pool, int moe_index, int64_t tokens,
                Chunk* chunk);
MoeLayer::Forward moe_args(const Decoder& decoder, const Decoder::Forward& args, int moe_index, int64_t tokens,
                           const Chunk& chunk);
// The rows of this chunk that need logits; maybe none.
HeadArgs head_args(const Decoder& decoder, const Decoder::Forward& args, int64_t first, int64_t tokens,
                   const Chunk& chunk);

}  // namespace smoe
