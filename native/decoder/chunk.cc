#include "decoder/chunk.h"

#include "decoder/attention.h"
#include "decoder/dense_ffn.h"
#include "decoder/rows.h"

namespace smoe {
namespace {

int64_t widest_rotary(const Decoder& decoder) {
  size_t half = 0;
  for (const DecoderLayer& layer : decoder.layers) half = std::max(half, layer.attention.inv_freq.size());
  return static_cast<int64_t>(half);
}

}  // namespace

size_t chunk_bytes(const Decoder& decoder, int64_t tokens, int64_t end, int threads) {
  const size_t rows = Workspace::bytes_for<float>(static_cast<size_t>(tokens * decoder.hidden));
  size_t stage = head_bytes(decoder, tokens);
  for (const DecoderLayer& layer : decoder.layers) {
    stage = std::max(stage, attention_bytes(layer.attention, decoder.hidden, tokens, end, threads));
    if (layer.dense != nullptr) stage = std::max(stage, dense_ffn_bytes(*layer.dense, tokens, threads));
  }
  return (3 + static_cast<size_t>(state_tensors(decoder.momentum))) * rows +
         rope_bytes(widest_rotary(decoder), tokens) + stage;
}

Chunk take_chunk(const Decoder& decoder, int64_t tokens, Workspace& workspace) {
  const auto take = [&] { return workspace.take<float>(static_cast<size_t>(tokens * decoder.hidden)); };
  Chunk chunk;
  chunk.x = take();
  chunk.u = take();
  chunk.y = take();
  const int states = state_tensors(decoder.momentum);
  if (states >= 1) chunk.state.m = take();
  if (states == 2) chunk.state.m_im = take();
  if (states == 3) {
    chunk.state.p = take();
    chunk.state.v = take();
  }
  chunk.rope = take_rope(widest_rotary(decoder), tokens, workspace);
  return chunk;
}

float look_ahead_factor(const Decoder& decoder, int moe_index) {
  if (moe_index == 0) return 0;
  // A dense layer looks ahead as the MoE layer after it does; past the last one, as that one did.
  return lookahead(decoder.momentum, std::min(moe_index, decoder.moe_layers() - 1));
}

void look_ahead(const Decoder& decoder, const KernelTable& kernels, ThreadPool& pool, int moe_index, int64_t tokens,
                Chunk* chunk) {
  const float c = look_ahead_factor(decoder, moe_index);
  if (c == 0) return;
  const int64_t h = decoder.hidden;
  for_rows(pool, tokens, h, [&](int64_t row) { kernels.axpy(c, chunk->state.m + row * h, h, chunk->u + row * h); });
}

MoeLayer::Forward moe_args(const Decoder& decoder, const Decoder::Forward& args, int moe_index, int64_t tokens,
                           const Chunk& chunk) {
  MoeLayer::Forward moe;
  moe.hidden = chunk.u;
  moe.residual = chunk.x;
  moe.tokens = tokens;
  moe.step = residual_step(decoder.momentum, moe_index);
  moe.step.first = moe_index == 0;
  moe.state = chunk.state;
  moe.out = chunk.x;
  if (args.expert_counts != nullptr) moe.expert_counts = args.expert_counts + moe_index * decoder.max_experts();
  if (args.expert_bits != nullptr) moe.expert_bits = args.expert_bits + moe_index * decoder.max_experts();
  moe.cancel = args.cancel;
  return moe;
}

HeadArgs head_args(const Decoder& decoder, const Decoder::Forward& args, int64_t first, int64_t tokens,
                   const Chunk& chunk) {
  HeadArgs head;
  const bool last = first + tokens == args.tokens;
  const bool every = args.nll != nullptr || (args.logits != nullptr && args.all_logits);
  if (!every && (args.logits == nullptr || !last)) return head;
  head.rows = every ? tokens : 1;
  head.x = chunk.x + (tokens - head.rows) * decoder.hidden;
  if (args.all_logits && args.logits != nullptr) head.logits = args.logits + first * decoder.vocab;
  if (!args.all_logits && last) (every ? head.last_logits : head.logits) = args.logits;
  if (args.nll != nullptr) {
    head.nll = args.nll + first;
    head.targets = args.targets + first;
  }
  return head;
}

}  // namespace smoe
