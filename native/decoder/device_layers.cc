#include "decoder/device_layers.h"

#include "decoder/chunk.h"
#include "decoder/device_attention.h"
#include "decoder/device_dense.h"

namespace smoe {
namespace {

Status enqueue_embedding(const DeviceModel& model, const DevicePass& pass, const DeviceRows& rows) {
  cu::EmbedArgs embed;
  embed.ids = rows.ids();
  embed.table = model.ends.embedding.view;
  embed.hidden = model.shape.hidden;
  embed.num_tokens = pass.num_tokens();
  embed.max_tokens = pass.rows;
  embed.x = rows.x;
  SMOE_ENQUEUE(*pass.device, embed, embed);
  return Status();
}

cu::NormRowsArgs norm_args(const DeviceModel& model, const DevicePass& pass, const DeviceRows& rows,
                           const DeviceNorm& norm, int parts) {
  cu::NormRowsArgs args;
  args.kind = norm.kind;
  args.x = rows.x;
  args.width = args.x_stride = model.shape.hidden;
  args.weight = norm.weight.as<float>();
  args.bias = norm.bias.as<float>();
  args.eps = norm.eps;
  args.num_tokens = pass.num_tokens();
  args.max_tokens = pass.rows;
  args.planes = {rows.planes, pass.rows * model.shape.hidden, parts};
  return args;
}

// x += attention(norm(x))
Status enqueue_attention_part(const DeviceModel& model, const DevicePass& pass, const DeviceRows& rows,
                              const DeviceKvShape& cache, size_t index) {
  const AttentionConfig& config = model.shape.layers[index].attention;
  const Precision precision = model.shape.precision;
  const cu::NormRowsArgs norm =
      norm_args(model, pass, rows, model.layers[index].attention_norm, attention_parts(config, precision));
  SMOE_ENQUEUE(*pass.device, norm_rows, norm);
  DeviceAttentionArgs attention;
  attention.config = &config;
  attention.weights = &model.layers[index];
  attention.cache = &cache;
  attention.layer = index;
  attention.precision = precision;
  attention.input = norm.planes;
  attention.x = rows.x;
  return enqueue_attention(pass, attention, DeviceArena(rows.stage));
}

// u = norm(x) + c*m: what routers and experts see.
Status enqueue_ffn_norm(const DeviceModel& model, const DevicePass& pass, const DeviceRows& rows, size_t index,
                        int moe_index, cu::Planes* input) {
  const DeviceLayer& layer = model.layers[index];
  const float factor = look_ahead_factor(model.shape, moe_index);
  const int parts = layer.moe != nullptr ? layer.moe->activation_parts() : activation_parts(model.shape.precision);
  cu::NormRowsArgs norm = norm_args(model, pass, rows, layer.ffn_norm, parts);
  if (factor != 0) {
    norm.look_ahead = rows.state.m;
    norm.look_ahead_factor = factor;
  }
  norm.out = rows.u;
  SMOE_ENQUEUE(*pass.device, norm_rows, norm);
  *input = norm.planes;
  return Status();
}

// x, m = step(x, m, experts(u))
Status enqueue_moe(const DeviceModel& model, const DeviceLayersArgs& args, size_t index, int moe_index,
                   const cu::Planes& input) {
  const DeviceRows& rows = *args.rows;
  DeviceMoeLayer::Rows moe;
  moe.hidden = rows.u;
  moe.planes = input;
  moe.residual = moe.out = rows.x;
  // All rows of a pass are real; this spares the few the writing of their number.
  if (args.pass.rows <= model.layers[index].moe->few_rows()) moe.num_tokens = args.pass.num_tokens();
  moe.max_tokens = args.pass.rows;
  moe.step = residual_step(model.shape.momentum, moe_index);
  moe.step.first = moe_index == 0;
  moe.state = rows.state;
  if (args.expert_counts != nullptr) moe.expert_counts = args.expert_counts + moe_index * model.shape.max_experts();
  if (args.expert_planes != nullptr) moe.expert_planes = args.expert_planes + moe_index * model.shape.max_experts();
  if (args.trace != nullptr) SMOE_RETURN_IF_ERROR(args.trace->begin(moe_index, &moe));
  SMOE_RETURN_IF_ERROR(model.layers[index].moe->enqueue(moe, rows.moe));
  return args.trace != nullptr ? args.trace->end(moe) : Status();
}

}  // namespace

// The main path: embed -> layers of attention and experts -> final norm -> logits.
Status enqueue_layers(const DeviceModel& model, const DeviceLayersArgs& args) {
  const DeviceKvShape cache = model.cache_shape();
  SMOE_RETURN_IF_ERROR(enqueue_embedding(model, args.pass, *args.rows));
  int moe_index = 0;
  for (size_t index = 0; index < model.layers.size(); ++index) {
    if (cancelled(args.cancel)) return Status(Code::Cancelled, "cancelled");
    const DeviceLayer& layer = model.layers[index];
    SMOE_RETURN_IF_ERROR(enqueue_attention_part(model, args.pass, *args.rows, cache, index));
    cu::Planes input;
    SMOE_RETURN_IF_ERROR(enqueue_ffn_norm(model, args.pass, *args.rows, index, moe_index, &input));
    if (layer.moe != nullptr) {
      SMOE_RETURN_IF_ERROR(enqueue_moe(model, args, index, moe_index++, input));
    } else {
      SMOE_RETURN_IF_ERROR(enqueue_dense(args.pass, *layer.dense, model.shape.precision, input, args.rows->x,
                                         DeviceArena(args.rows->stage)));
    }
  }
  if (!args.head_wanted) return Status();
  if (cancelled(args.cancel)) return Status(Code::Cancelled, "cancelled");
  return enqueue_head(model, args.head, DeviceArena(args.rows->stage));
}

}  // namespace smoe
