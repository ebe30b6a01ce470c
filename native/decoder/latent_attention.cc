// Evaluated in the absorbed form, in prefill as in decoding: a head's query is mapped into the space of the latents
// once, scores and mixtures are taken there, and the mixture is mapped out. The expanded form (keys and values of every
// head made from the latents) needs fewer operations per (query, key) pair, but making them costs heads * (nope + v) *
// kv_rank multiply-adds per cached token and call, which decoding cannot pay; and using one form for prompts and
// another for decoding would give a token two sets of bits.
//
// Every map takes f32 activations, in fast precision too: four maps lie between a token and its attention output where
// ordinary attention has two, and bf16 ones would round at each. (On test/fixtures/hf/deepseek_v3 that is a median
// error of a token's logits of 7.4e-3 against 6.8e-3, and the router decides another of its near ties otherwise.)
// Decoding, which waits for the weights, does not pay for it; prompts do, in the part of a layer that is not experts.
// The cache is bf16 in fast.
#include "decoder/latent_attention.h"

#include <cstring>

#include "decoder/rows.h"

namespace smoe {
namespace {

// Multiply-adds below which one thread is done before a second one has started, as in attention.cc.
constexpr int64_t kInlineMacs = 1 << 16;
// Tokens whose absorbed queries and mixed latents exist at a time: with 128 heads of 576 that is 36 MiB.
constexpr int64_t kBlockTokens = 64;

int64_t score_stride(int64_t end) { return (end + 15) / 16 * 16; }

struct Shape {
  int64_t heads, head_dim, key_dim, kv_rank, v_dim;

  explicit Shape(const AttentionConfig& config)
      : heads(config.heads),
        head_dim(config.latent.nope_dim + config.latent.rope_dim),
        key_dim(config.latent.key_dim()),
        kv_rank(config.latent.kv_rank),
        v_dim(config.latent.v_dim) {}
  int64_t widest_input(int64_t hidden) const { return std::max(hidden, heads * v_dim); }
  int64_t head_input(const LatentConfig& latent) const { return std::max(int64_t{latent.nope_dim}, kv_rank); }
};

// Rotates one head's part. Interleaved pairs are brought half a part from each other first and stay there: queries and
// keys are permuted alike, so their products do not notice.
void rotate(const KernelTable& kernels, const AttentionArgs& args, int64_t token, float* part) {
  const LatentConfig& latent = args.config->latent;
  const int64_t half = latent.rope_dim / 2;
  if (half == 0) return;
  if (latent.interleaved) {
    float pairs[kMaxRopeDim];
    std::memcpy(pairs, part, static_cast<size_t>(latent.rope_dim) * sizeof(float));
    for (int64_t i = 0; i < half; ++i) {
      part[i] = pairs[2 * i];
      part[half + i] = pairs[2 * i + 1];
    }
  }
  kernels.rotate(part, args.rope->cos + token * half, args.rope->sin + token * half, latent.rope_dim);
}

// One head's work on all tokens of a block is one item: its matrix is read once. Small blocks stay on this thread.
template <class F>
void for_heads(ThreadPool& pool, int64_t heads, int64_t macs, const F& body) {
  if (macs <= kInlineMacs) {
    for (int64_t head = 0; head < heads; ++head) body(head, 0);
  } else {
    pool.parallel_for(heads, body);
  }
}

struct Block {
  int64_t first, tokens;
  const float* q;          // [tokens, heads * head_dim] rotated queries
  float* absorbed;         // [tokens, heads, key_dim]
  float* mixed;            // [tokens, heads, kv_rank]
  float* attended;         // [tokens, heads * v_dim]
  float* scores;           // [threads][score_stride]
  unsigned char* scratch;  // [threads][scratch_bytes]
  size_t scratch_bytes;
};

void absorb(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, const Block& block) {
  const Shape shape(*args.config);
  const LatentConfig& latent = args.config->latent;
  const int64_t macs = block.tokens * shape.heads * latent.nope_dim * shape.kv_rank;
  for_heads(pool, shape.heads, macs, [&](int64_t head, int worker) {
    const float* const q = block.q + head * shape.head_dim;
    float* const out = block.absorbed + head * shape.key_dim;
    LinearArgs map;
    map.weight = &args.latent_weights->key_up[static_cast<size_t>(head)];
    map.x = q;
    map.rows = block.tokens;
    map.x_stride = shape.heads * shape.head_dim;
    map.out = out;
    map.out_stride = shape.heads * shape.key_dim;
    linear(kernels, pool, Precision::Exact, map, block.scratch + static_cast<size_t>(worker) * block.scratch_bytes);
    for (int64_t token = 0; token < block.tokens; ++token)
      std::copy_n(q + token * map.x_stride + latent.nope_dim, latent.rope_dim,
                  out + token * map.out_stride + shape.kv_rank);
  });
}

void attend(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, const Block& block) {
  const Shape shape(*args.config);
  const int64_t last = args.position + block.first + block.tokens;
  const int64_t stride = score_stride(args.position + args.tokens);
  const void* latents = args.cache->k_panels(args.layer, 0);
  const auto item = [&](int64_t index, int worker) {
    const int64_t end = args.position + block.first + index / shape.heads + 1;
    const int64_t begin = args.config->window > 0 && end > args.config->window ? end - args.config->window : 0;
    const float* q = block.absorbed + index * shape.key_dim;
    float* const scores = block.scores + worker * stride;
    float* const out = block.mixed + index * shape.kv_rank;
    if (args.cache->bf16()) {
      kernels.attend_latent_bf16(q, static_cast<const uint16_t*>(latents), begin, end, shape.key_dim, shape.kv_rank,
                                 args.config->scale, scores, out);
    } else {
      kernels.attend_latent_f32(q, static_cast<const float*>(latents), begin, end, shape.key_dim, shape.kv_rank,
                                args.config->scale, scores, out);
    }
  };
  const int64_t items = block.tokens * shape.heads;
  if (2 * items * shape.key_dim * last <= kInlineMacs) {
    for (int64_t index = 0; index < items; ++index) item(index, 0);
  } else {
    pool.parallel_for(items, item);
  }
}

void map_out(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, const Block& block) {
  const Shape shape(*args.config);
  const int64_t macs = block.tokens * shape.heads * shape.v_dim * shape.kv_rank;
  for_heads(pool, shape.heads, macs, [&](int64_t head, int worker) {
    LinearArgs map;
    map.weight = &args.latent_weights->value_up[static_cast<size_t>(head)];
    map.x = block.mixed + head * shape.kv_rank;
    map.rows = block.tokens;
    map.x_stride = shape.heads * shape.kv_rank;
    map.out = block.attended + head * shape.v_dim;
    map.out_stride = shape.heads * shape.v_dim;
    linear(kernels, pool, Precision::Exact, map, block.scratch + static_cast<size_t>(worker) * block.scratch_bytes);
  });
}

}  // namespace

size_t LatentWeights::bytes() const {
  size_t total = q_a.bytes() + q_b.bytes() + kv_a.bytes() + o.bytes();
  for (const PackedMatrix& head : key_up) total += head.bytes();
  for (const PackedMatrix& head : value_up) total += head.bytes();
  for (const auto* values : {&q_norm, &kv_norm, &q_a_bias, &kv_a_bias, &o_bias})
    total += values->size() * sizeof(float);
  return total;
}

size_t latent_attention_bytes(const AttentionConfig& config, int64_t hidden, int64_t tokens, int64_t end, int threads) {
  const Shape shape(config);
  const auto floats = [](int64_t count) { return Workspace::bytes_for<float>(static_cast<size_t>(count)); };
  const int64_t block = std::min(tokens, kBlockTokens);
  return floats(tokens * config.latent.q_rank) + floats(tokens * shape.heads * shape.head_dim) +
         floats(tokens * shape.key_dim) + floats(tokens * shape.heads * shape.v_dim) +
         floats(block * shape.heads * shape.key_dim) + floats(block * shape.heads * shape.kv_rank) +
         floats(threads * score_stride(end)) +
         Workspace::bytes_for<unsigned char>(
             linear_workspace_bytes(tokens, std::max(shape.widest_input(hidden), int64_t{config.latent.q_rank}))) +
         Workspace::bytes_for<unsigned char>(static_cast<size_t>(threads) *
                                             linear_workspace_bytes(block, shape.head_input(config.latent)));
}

void latent_attention(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, Workspace& workspace) {
  const AttentionConfig& config = *args.config;
  const LatentConfig& latent = config.latent;
  const LatentWeights& weights = *args.latent_weights;
  const Shape shape(config);
  const int64_t hidden = weights.kv_a.cols, q_width = shape.heads * shape.head_dim;
  const size_t mark = workspace.used();
  const auto take = [&](int64_t count) { return workspace.take<float>(static_cast<size_t>(count)); };
  float* low = take(args.tokens * latent.q_rank);
  float* q = take(args.tokens * q_width);
  float* kv = take(args.tokens * shape.key_dim);
  float* attended = take(args.tokens * shape.heads * shape.v_dim);
  void* wide = workspace.take<unsigned char>(
      linear_workspace_bytes(args.tokens, std::max(shape.widest_input(hidden), int64_t{latent.q_rank})));
  const auto project = [&](const PackedMatrix& weight, const std::vector<float>& bias, const float* x, float* out) {
    LinearArgs map;
    map.weight = &weight;
    map.bias = bias.empty() ? nullptr : bias.data();
    map.x = x;
    map.rows = args.tokens;
    map.out = out;
    linear(kernels, pool, Precision::Exact, map, wide);
  };
  if (latent.q_rank > 0) {
    project(weights.q_a, weights.q_a_bias, args.x, low);
    for_rows(pool, args.tokens, latent.q_rank, [&](int64_t token) {
      float* row = low + token * latent.q_rank;
      kernels.rms_norm(row, weights.q_norm.data(), latent.norm_eps, latent.q_rank, row);
    });
  }
  project(weights.q_b, {}, latent.q_rank > 0 ? low : args.x, q);
  project(weights.kv_a, weights.kv_a_bias, args.x, kv);
  for_rows(pool, args.tokens, q_width + shape.key_dim, [&](int64_t token) {
    float* const row = kv + token * shape.key_dim;
    kernels.rms_norm(row, weights.kv_norm.data(), latent.norm_eps, shape.kv_rank, row);
    rotate(kernels, args, token, row + shape.kv_rank);
    args.cache->put(args.layer, args.position + token, row, nullptr);
    for (int64_t head = 0; head < shape.heads; ++head)
      rotate(kernels, args, token, q + token * q_width + head * shape.head_dim + latent.nope_dim);
  });

  const int64_t most = std::min(args.tokens, kBlockTokens);
  Block block;
  block.absorbed = take(most * shape.heads * shape.key_dim);
  block.mixed = take(most * shape.heads * shape.kv_rank);
  block.scores = take(pool.max_size() * score_stride(args.position + args.tokens));
  block.scratch_bytes = linear_workspace_bytes(most, shape.head_input(latent));
  block.scratch = workspace.take<unsigned char>(static_cast<size_t>(pool.max_size()) * block.scratch_bytes);
  for (int64_t first = 0; first < args.tokens; first += kBlockTokens) {
    block.first = first;
    block.tokens = std::min(kBlockTokens, args.tokens - first);
    block.q = q + first * q_width;
    block.attended = attended + first * shape.heads * shape.v_dim;
    absorb(kernels, pool, args, block);
    attend(kernels, pool, args, block);
    map_out(kernels, pool, args, block);
  }
  project(weights.o, weights.o_bias, attended, args.out);
  workspace.rewind(mark);
}

}  // namespace smoe
