#include "decoder/attention.h"

#include <cmath>

#include "decoder/latent_attention.h"
#include "decoder/rows.h"

namespace smoe {
namespace {

// Multiply-adds of scores and values below which one thread is done before a second one has started (about 4 us).
constexpr int64_t kInlineMacs = 1 << 16;

// Scores per thread; the kernels fill whole panels of 16.
int64_t score_stride(int64_t end) { return (end + 15) / 16 * 16; }

const float* data_or_null(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

struct Projected {
  float *q, *k, *v;  // [tokens, heads or kv_heads * head_dim]
};

void norm_heads(const KernelTable& kernels, const AttentionConfig& config, const std::vector<float>& weight,
                int64_t heads, float* x) {
  if (config.qk_norm == QkNorm::None) return;
  const int64_t width = config.qk_norm == QkNorm::Full ? heads * config.head_dim : config.head_dim;
  for (int64_t at = 0; at < heads * config.head_dim; at += width)
    kernels.rms_norm(x + at, weight.data(), config.qk_norm_eps, width, x + at);
}

void clip(float limit, int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = std::min(std::max(x[i], -limit), limit);
}

// Norm, clip and rotation of one token, and its place in the cache.
void finish_token(const KernelTable& kernels, const AttentionArgs& args, const Projected& rows, int64_t token) {
  const AttentionConfig& config = *args.config;
  const int64_t dim = config.head_dim, half = static_cast<int64_t>(config.inv_freq.size());
  float* q = rows.q + token * config.heads * dim;
  float* k = rows.k + token * config.kv_heads * dim;
  float* v = rows.v + token * config.kv_heads * dim;
  norm_heads(kernels, config, args.weights->q_norm, config.heads, q);
  norm_heads(kernels, config, args.weights->k_norm, config.kv_heads, k);
  if (config.clip_qkv > 0) {
    clip(config.clip_qkv, config.heads * dim, q);
    clip(config.clip_qkv, config.kv_heads * dim, k);
    clip(config.clip_qkv, config.kv_heads * dim, v);
  }
  const float* cos = args.rope->cos + token * half;
  const float* sin = args.rope->sin + token * half;
  if (half > 0) {
    for (int head = 0; head < config.heads; ++head) kernels.rotate(q + head * dim, cos, sin, 2 * half);
    for (int head = 0; head < config.kv_heads; ++head) kernels.rotate(k + head * dim, cos, sin, 2 * half);
  }
  args.cache->put(args.layer, args.position + token, k, v);
}

// One query head over the keys its token may see. Keys are taken in an order fixed by their positions, so the
// result does not depend on how many tokens came in this call.
void attend_head(const KernelTable& kernels, const AttentionArgs& args, const float* q, int64_t token, int head,
                 float* scores, float* out) {
  const AttentionConfig& config = *args.config;
  const int64_t end = args.position + token + 1;
  const int64_t begin = config.window > 0 && end > config.window ? end - config.window : 0;
  const int kv_head = head / (config.heads / config.kv_heads);
  const void* k = args.cache->k_panels(args.layer, kv_head);
  const void* v = args.cache->v_rows(args.layer, kv_head);
  const int64_t at = (token * config.heads + head) * config.head_dim;
  const std::vector<float>& sinks = args.weights->sinks;
  const float sink = sinks.empty() ? -INFINITY : sinks[static_cast<size_t>(head)];
  if (args.cache->bf16()) {
    kernels.attend_bf16(q + at, static_cast<const uint16_t*>(k), static_cast<const uint16_t*>(v), begin, end,
                        config.head_dim, config.scale, sink, scores, out + at);
  } else {
    kernels.attend_f32(q + at, static_cast<const float*>(k), static_cast<const float*>(v), begin, end, config.head_dim,
                       config.scale, sink, scores, out + at);
  }
}

void attend(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, const float* q, float* scores,
            float* out) {
  const AttentionConfig& config = *args.config;
  const int64_t end = args.position + args.tokens, stride = score_stride(end);
  // An item is all query heads of one KV head, whose keys then stay in cache; a single head when those are too few
  // to go round. Items run along the tokens of one KV head for the same reason.
  const bool grouped = args.tokens * config.kv_heads >= 2 * pool.size();
  const int lanes = grouped ? config.kv_heads : config.heads, group = config.heads / lanes;
  const auto item = [&](int64_t index, int worker) {
    const int64_t lane = index / args.tokens, token = index % args.tokens;
    for (int i = 0; i < group; ++i)
      attend_head(kernels, args, q, token, static_cast<int>(lane) * group + i, scores + worker * stride, out);
  };
  const int64_t seen = config.window > 0 ? std::min(end, config.window) : end;
  if (2 * args.tokens * config.heads * config.head_dim * seen <= kInlineMacs) {
    for (int64_t index = 0; index < args.tokens * lanes; ++index) item(index, 0);
  } else {
    pool.parallel_for(args.tokens * lanes, item);
  }
}

}  // namespace

size_t attention_bytes(const AttentionConfig& config, int64_t hidden, int64_t tokens, int64_t end, int threads) {
  if (config.latent.kv_rank > 0) return latent_attention_bytes(config, hidden, tokens, end, threads);
  const int64_t q = int64_t{config.heads} * config.head_dim, kv = int64_t{config.kv_heads} * config.head_dim;
  const auto floats = [](int64_t count) { return Workspace::bytes_for<float>(static_cast<size_t>(count)); };
  return 2 * floats(tokens * q) + 2 * floats(tokens * kv) + floats(threads * score_stride(end)) +
         Workspace::bytes_for<unsigned char>(linear_workspace_bytes(tokens, std::max(hidden, q)));
}

void attention(const KernelTable& kernels, ThreadPool& pool, const AttentionArgs& args, Workspace& workspace) {
  const AttentionConfig& config = *args.config;
  if (config.latent.kv_rank > 0) return latent_attention(kernels, pool, args, workspace);
  const AttentionWeights& weights = *args.weights;
  const int64_t q_width = int64_t{config.heads} * config.head_dim,
                kv_width = int64_t{config.kv_heads} * config.head_dim;
  const size_t mark = workspace.used();
  const auto take = [&](int64_t count) { return workspace.take<float>(static_cast<size_t>(count)); };
  Projected rows{take(args.tokens * q_width), take(args.tokens * kv_width), take(args.tokens * kv_width)};
  float* attended = take(args.tokens * q_width);
  float* scores = take(pool.max_size() * score_stride(args.position + args.tokens));
  void* scratch = workspace.take<unsigned char>(linear_workspace_bytes(args.tokens, std::max(weights.q.cols, q_width)));

  const auto project = [&](const PackedMatrix& weight, const std::vector<float>& bias, const float* x, float* out) {
    LinearArgs map;
    map.weight = &weight;
    map.bias = data_or_null(bias);
    map.x = x;
    map.rows = args.tokens;
    map.out = out;
    linear(kernels, pool, args.precision, map, scratch);
  };
  project(weights.q, weights.q_bias, args.x, rows.q);
  project(weights.k, weights.k_bias, args.x, rows.k);
  project(weights.v, weights.v_bias, args.x, rows.v);
  for_rows(pool, args.tokens, q_width + 2 * kv_width, [&](int64_t token) { finish_token(kernels, args, rows, token); });
  attend(kernels, pool, args, rows.q, scores, attended);
  project(weights.o, weights.o_bias, attended, args.out);
  workspace.rewind(mark);
}

}  // namespace smoe
