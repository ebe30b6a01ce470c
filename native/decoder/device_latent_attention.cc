// In the absorbed form of latent_attention.cc, for prompts and for decoding.
#include "decoder/device_attention.h"

namespace smoe {
namespace {

struct Rows {
  float* low;                  // [rows, q_rank]
  cu::Planes low_planes;       // the same, normed
  float* q;                    // [rows, heads * (nope_dim + rope_dim)]
  float* kv;                   // [rows, kv_rank + rope_dim]
  cu::Planes q_nope;           // [rows, heads * nope_dim]
  float* q_latent;             // [rows, heads * (kv_rank + rope_dim)]
  float* partial;              // or null
  cu::Planes mixed, attended;  // [rows, heads * kv_rank], [rows, heads * v_dim]
};

Rows take_rows(const AttentionConfig& config, int64_t rows, int sms, DeviceArena* arena) {
  const LatentConfig& latent = config.latent;
  const int64_t heads = config.heads, parts = activation_parts(Precision::Exact);
  const auto planes = [&](int64_t width) { return take_planes(arena, rows * width, static_cast<int>(parts)); };
  Rows taken;
  taken.low = arena->take<float>(rows * latent.q_rank);
  taken.low_planes = planes(latent.q_rank);
  taken.q = arena->take<float>(rows * heads * (latent.nope_dim + latent.rope_dim));
  taken.kv = arena->take<float>(rows * latent.key_dim());
  taken.q_nope = planes(heads * latent.nope_dim);
  taken.q_latent = arena->take<float>(rows * heads * latent.key_dim());
  taken.partial = arena->take<float>(partial_floats(config, rows, sms));
  taken.mixed = planes(heads * latent.kv_rank);
  taken.attended = planes(heads * latent.v_dim);
  return taken;
}

// Queries of all heads, straight from the input or through a normed bottleneck.
Status enqueue_queries(const DevicePass& pass, const DeviceAttentionArgs& args, const Rows& rows) {
  const LatentConfig& latent = args.config->latent;
  const DeviceLatent& weights = args.weights->latent;
  cu::LinearArgs up;
  up.x = args.input;
  up.out = rows.q;
  if (latent.q_rank > 0) {
    cu::LinearArgs down;
    down.x = args.input;
    down.bias = weights.q_a_bias.as<float>();
    down.out = rows.low;
    SMOE_RETURN_IF_ERROR(enqueue_linear(pass, weights.q_a, down));
    cu::NormRowsArgs norm;
    norm.kind = cu::RowNorm::Rms;
    norm.x = rows.low;
    norm.width = norm.x_stride = latent.q_rank;
    norm.weight = weights.q_norm.as<float>();
    norm.eps = latent.norm_eps;
    norm.num_tokens = pass.num_tokens();
    norm.max_tokens = pass.rows;
    norm.planes = rows.low_planes;
    SMOE_ENQUEUE(*pass.device, norm_rows, norm);
    up.x = rows.low_planes;
  }
  return enqueue_linear(pass, weights.q_b, up);
}

}  // namespace

size_t latent_attention_bytes(const AttentionConfig& config, int64_t rows, int sms) {
  DeviceArena measure(nullptr);
  take_rows(config, rows, sms, &measure);
  return measure.bytes();
}

Status enqueue_latent_attention(const DevicePass& pass, const DeviceAttentionArgs& args, DeviceArena scratch) {
  const AttentionConfig& config = *args.config;
  const LatentConfig& latent = config.latent;
  const DeviceLatent& weights = args.weights->latent;
  const int64_t heads = config.heads;
  const Rows rows = take_rows(config, pass.rows, pass.sms(), &scratch);

  SMOE_RETURN_IF_ERROR(enqueue_queries(pass, args, rows));
  cu::LinearArgs compress;
  compress.x = args.input;
  compress.bias = weights.kv_a_bias.as<float>();
  compress.out = rows.kv;
  SMOE_RETURN_IF_ERROR(enqueue_linear(pass, weights.kv_a, compress));

  cu::LatentFinishArgs finish;
  finish.q = rows.q;
  finish.kv = rows.kv;
  finish.kv_norm = weights.kv_norm.as<float>();
  finish.norm_eps = latent.norm_eps;
  finish.heads = config.heads;
  finish.kv_rank = latent.kv_rank;
  finish.nope_dim = latent.nope_dim;
  finish.rope_dim = latent.rope_dim;
  finish.rope = rope_args(args, latent.interleaved);
  finish.step = pass.step();
  finish.max_tokens = pass.rows;
  finish.cache = kv_pages(pass, args);
  finish.q_nope = rows.q_nope;
  finish.q_latent = rows.q_latent;
  SMOE_ENQUEUE(*pass.device, latent_finish, finish);

  cu::LinearArgs absorb;
  absorb.rows = latent.kv_rank;
  absorb.k = latent.nope_dim;
  absorb.batch = config.heads;
  absorb.x = rows.q_nope;
  absorb.x_stride = heads * latent.nope_dim;
  absorb.x_step = latent.nope_dim;
  absorb.out = rows.q_latent;
  absorb.out_stride = heads * latent.key_dim();
  absorb.out_step = latent.key_dim();
  SMOE_RETURN_IF_ERROR(enqueue_linear(pass, weights.key_up, absorb));

  cu::AttendArgs attend;
  attend.q = rows.q_latent;
  attend.q_stride = heads * latent.key_dim();
  attend.partial = rows.partial;
  attend.out = rows.mixed;
  SMOE_RETURN_IF_ERROR(enqueue_attend(pass, args, attend));

  cu::LinearArgs expand;
  expand.rows = latent.v_dim;
  expand.k = latent.kv_rank;
  expand.batch = config.heads;
  expand.x = rows.mixed;
  expand.x_stride = heads * latent.kv_rank;
  expand.x_step = latent.kv_rank;
  expand.out_planes = rows.attended;
  expand.out_stride = heads * latent.v_dim;
  expand.out_step = latent.v_dim;
  SMOE_RETURN_IF_ERROR(enqueue_linear(pass, weights.value_up, expand));

  return enqueue_output(pass, args, weights.o, weights.o_bias, rows.attended);
}

}  // namespace smoe
