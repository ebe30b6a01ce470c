#include "decoder/device_attention.h"

#include <algorithm>

namespace smoe {
namespace {

// Query heads that share what a block of attend_split reads (attend_split.cu).
int64_t heads_of_block(int64_t value_dim) { return value_dim > 128 ? 4 : 8; }
// Partial sums of kFewRows rows: what an L2 holds. It limits layers with very many heads.
constexpr int64_t kPartialBytes = int64_t{64} << 20;
constexpr int64_t kMaxSplits = 64;

int value_dim(const AttentionConfig& config) {
  return config.latent.kv_rank > 0 ? config.latent.kv_rank : config.head_dim;
}

struct Rows {
  float* qkv;           // [rows, (heads + 2 kv_heads) * head_dim]
  float* partial;       // or null
  cu::Planes attended;  // [rows, heads * head_dim]
};

Rows take_rows(const AttentionConfig& config, Precision precision, int64_t rows, int sms, DeviceArena* arena) {
  const int64_t q = int64_t{config.heads} * config.head_dim, kv = int64_t{config.kv_heads} * config.head_dim;
  Rows taken;
  taken.qkv = arena->take<float>(rows * (q + 2 * kv));
  taken.partial = arena->take<float>(partial_floats(config, rows, sms));
  taken.attended = take_planes(arena, rows * q, activation_parts(precision));
  return taken;
}

cu::HeadNorm head_norm(QkNorm norm) {
  switch (norm) {
    case QkNorm::None:
      return cu::HeadNorm::None;
    case QkNorm::PerHead:
      return cu::HeadNorm::PerHead;
    case QkNorm::Full:
      break;
  }
  return cu::HeadNorm::Full;
}

}  // namespace

int attention_parts(const AttentionConfig& config, Precision precision) {
  return config.latent.kv_rank > 0 ? activation_parts(Precision::Exact) : activation_parts(precision);
}

int attend_splits(const AttentionConfig& config, int sms) {
  const int64_t kv_heads = config.cache_shape().kv_heads, group = config.heads / kv_heads;
  const int64_t per_block = heads_of_block(value_dim(config));
  const int64_t blocks = kv_heads * ((group + per_block - 1) / per_block);  // of one row and split
  const int64_t bytes = kFewRows * config.heads * (value_dim(config) + 2) * int64_t{sizeof(float)};
  const int64_t wanted = (2 * sms + blocks - 1) / blocks;
  return static_cast<int>(std::clamp<int64_t>(std::min(wanted, kPartialBytes / bytes), 1, kMaxSplits));
}

int64_t partial_floats(const AttentionConfig& config, int64_t rows, int sms) {
  const int splits = attend_splits(config, sms);
  return rows > kFewRows || splits == 1 ? 0 : rows * config.heads * splits * (value_dim(config) + 2);
}

cu::KvPages kv_pages(const DevicePass& pass, const DeviceAttentionArgs& args) {
  cu::KvPages pages;
  pages.pages = pass.pages;
  pages.layer_offset = static_cast<int64_t>(args.layer * args.cache->layer_bytes());
  pages.kv_heads = args.cache->kv.kv_heads;
  pages.key_dim = args.cache->kv.key_dim;
  pages.value_dim = args.cache->kv.value_dim;
  pages.f32 = args.cache->f32;
  return pages;
}

cu::RopeArgs rope_args(const DeviceAttentionArgs& args, bool interleaved) {
  cu::RopeArgs rope;
  rope.inv_freq = args.weights->inv_freq.as<float>();
  rope.half = static_cast<int>(args.config->inv_freq.size());
  rope.scale = args.config->rope_scale;
  rope.interleaved = interleaved;
  return rope;
}

Status enqueue_attend(const DevicePass& pass, const DeviceAttentionArgs& args, cu::AttendArgs attend) {
  attend.heads = args.config->heads;
  attend.value_dim = value_dim(*args.config);
  attend.cache = kv_pages(pass, args);
  attend.scale = args.config->scale;
  attend.window = args.config->window;
  attend.step = pass.step();
  attend.max_tokens = pass.rows;
  if (!pass.few()) {
    SMOE_ENQUEUE(*pass.device, attend_prefill, attend);
    return Status();
  }
  attend.splits = attend_splits(*args.config, pass.sms());
  if (attend.splits == 1) attend.partial = nullptr;
  SMOE_ENQUEUE(*pass.device, attend_split, attend);
  if (attend.partial != nullptr) SMOE_ENQUEUE(*pass.device, attend_merge, attend);
  return Status();
}

Status enqueue_output(const DevicePass& pass, const DeviceAttentionArgs& args, const DeviceMatrix& o,
                      const DeviceBuffer& bias, const cu::Planes& attended) {
  cu::LinearArgs out;
  out.x = attended;
  out.bias = bias.as<float>();
  out.residual = args.x;
  out.out = args.x;
  return enqueue_linear(pass, o, out);
}

size_t attention_bytes(const AttentionConfig& config, Precision precision, int64_t rows, int sms) {
  if (config.latent.kv_rank > 0) return latent_attention_bytes(config, rows, sms);
  DeviceArena measure(nullptr);
  take_rows(config, precision, rows, sms, &measure);
  return measure.bytes();
}

// Projection, norm and rotation, attention over the cache, projection, residual.
Status enqueue_attention(const DevicePass& pass, const DeviceAttentionArgs& args, DeviceArena scratch) {
  const AttentionConfig& config = *args.config;
  if (config.latent.kv_rank > 0) return enqueue_latent_attention(pass, args, scratch);
  const DeviceAttention& weights = args.weights->attention;
  const Rows rows = take_rows(config, args.precision, pass.rows, pass.sms(), &scratch);

  cu::LinearArgs project;
  project.x = args.input;
  project.bias = weights.qkv_bias.as<float>();
  project.out = rows.qkv;
  SMOE_RETURN_IF_ERROR(enqueue_linear(pass, weights.qkv, project));

  cu::QkvFinishArgs finish;
  finish.qkv = rows.qkv;
  finish.heads = config.heads;
  finish.kv_heads = config.kv_heads;
  finish.head_dim = config.head_dim;
  finish.norm = head_norm(config.qk_norm);
  finish.norm_eps = config.qk_norm_eps;
  finish.q_norm = weights.q_norm.as<float>();
  finish.k_norm = weights.k_norm.as<float>();
  finish.clip = config.clip_qkv;
  finish.rope = rope_args(args, false);
  finish.step = pass.step();
  finish.max_tokens = pass.rows;
  finish.cache = kv_pages(pass, args);
  SMOE_ENQUEUE(*pass.device, qkv_finish, finish);

  cu::AttendArgs attend;
  attend.q = rows.qkv;
  attend.q_stride = (int64_t{config.heads} + 2 * int64_t{config.kv_heads}) * config.head_dim;
  attend.sinks = weights.sinks.as<float>();
  attend.partial = rows.partial;
  attend.out = rows.attended;
  SMOE_RETURN_IF_ERROR(enqueue_attend(pass, args, attend));

  return enqueue_output(pass, args, weights.o, weights.o_bias, rows.attended);
}

}  // namespace smoe
