#include "layer/device_moe_pass.h"

#include <algorithm>

namespace smoe {
namespace {

// The sigmoid of one logit is what a router over one expert with sigmoid scores gives it as its weight. Unlike a linear
// map it reads the f32 rows, as the CPU layer does.
RouterConfig gate_config() {
  RouterConfig config;
  config.experts = 1;
  config.k = 1;
  config.score = ScoreFn::Sigmoid;
  return config;
}

}  // namespace

DeviceMoePass::DeviceMoePass(const DeviceMoeWeights& weights, const DeviceMoeLayer::Rows& rows, void* memory)
    : w_(weights), rows_(rows), s_(lay_out(weights, rows.max_tokens, rows.given_slots, memory)) {
  slots_ = given() ? rows.given_slots : w_.config.router.k;
  routing_ = rows.routing;
  if (routing_.ids == nullptr) routing_.ids = s_.routing.ids;
  if (routing_.weights == nullptr) routing_.weights = s_.routing.weights;
  if (routing_.count == nullptr) routing_.count = s_.routing.count;
  if (given()) routing_ = s_.routing;
}

Status DeviceMoePass::route_few() {
  if (!given() || rows_.router_logits != nullptr)
    SMOE_RETURN_IF_ERROR(launch(table().route_dispatch, router_of_few(), "routing"));
  if (!given()) return Status();
  cu::DispatchGivenArgs args;
  args.ids = rows_.given_ids;
  args.weights = rows_.given_weights;
  args.num_tokens = rows_.num_tokens;
  args.max_tokens = static_cast<int>(rows_.max_tokens);
  args.slots = slots_;
  args.experts = w_.experts.experts;
  args.plan = counted(s_.few);
  return launch(table().dispatch_given, args, "dispatch");
}

Status DeviceMoePass::route_many() {
  if (!given() || rows_.router_logits != nullptr) {
    SMOE_RETURN_IF_ERROR(launch(table().route_many, router_of_many(), "routing"));
  }
  if (given()) {
    cu::HistogramArgs args;
    args.ids = rows_.given_ids;
    args.tokens = rows_.max_tokens;
    args.slots = slots_;
    args.experts = w_.experts.experts;
    args.histogram = s_.histogram;
    SMOE_RETURN_IF_ERROR(launch(table().histogram, args, "dispatch"));
  }
  cu::ScatterArgs args;
  args.ids = ids();
  args.weights = slot_weights();
  args.histogram = s_.histogram;
  args.tokens = rows_.max_tokens;
  args.slots = slots_;
  args.experts = w_.experts.experts;
  args.plan = s_.many;
  args.plan.expert_counts = rows_.expert_counts;
  return launch(table().scatter, args, "dispatch");
}

Status DeviceMoePass::shared_few() {
  if (w_.shared.experts == 0) return Status();
  if (w_.shared_gate.bytes() != 0) {
    cu::RouteDispatchArgs gate;
    gate.x = rows_.hidden;
    gate.w = w_.shared_gate.data();
    gate.w_f32 = w_.shared_gate_f32;
    gate.num_tokens = rows_.num_tokens;
    gate.max_tokens = static_cast<int>(rows_.max_tokens);
    gate.hidden = w_.hidden;
    gate.splits = cu::route_splits(1, w_.hidden);
    gate.config = gate_config();
    gate.partials = s_.partials;
    gate.tickets = s_.tickets;
    gate.routing = s_.shared_routing;
    gate.plan = s_.shared_few;  // of tokens whose gate is not NaN: replaced by the next launch
    SMOE_RETURN_IF_ERROR(launch(table().route_dispatch, gate, "gate of the shared expert"));
  }
  cu::DispatchGivenArgs all;
  all.ids = w_.zero_ids.as<int32_t>();
  all.num_tokens = rows_.num_tokens;
  all.max_tokens = static_cast<int>(rows_.max_tokens);
  all.slots = 1;
  all.experts = 1;
  all.plan = s_.shared_few;
  SMOE_RETURN_IF_ERROR(launch(table().dispatch_given, all, "shared expert"));
  if (w_.shared.int8) return shared_few_int8();
  SMOE_RETURN_IF_ERROR(gate_up(w_.shared, s_.shared_few, units(w_.shared, 1)));
  return shared_down_few();
}

Status DeviceMoePass::shared_down_few() {
  cu::LinearArgs down;
  down.weight = w_.shared.down[0].view;
  down.rows = w_.hidden;
  down.k = w_.shared.width;
  down.bias = w_.shared.down_bias.as<float>();
  down.x = units(w_.shared, 1);
  down.x_stride = w_.shared.width;
  down.out = s_.shared_out;
  down.out_stride = w_.hidden;
  down.num_tokens = rows_.num_tokens;
  down.max_tokens = rows_.max_tokens;
  down.blocks = grid();
  return launch(table().linear_rows, down, "shared expert");
}

Status DeviceMoePass::shared_many() {
  if (w_.shared.experts == 0) return Status();
  if (w_.shared_gate.bytes() != 0) {
    cu::RouteManyArgs gate = router_of_many();
    gate.w = w_.shared_gate.data();
    gate.w_f32 = w_.shared_gate_f32;
    gate.router_bias = gate.select_bias = nullptr;
    gate.splits = cu::route_splits(1, w_.hidden);
    gate.config = gate_config();
    gate.routing = s_.shared_routing;
    gate.logits = nullptr;
    gate.histogram = s_.histogram;  // the layer's own has served
    SMOE_RETURN_IF_ERROR(launch(table().route_many, gate, "gate of the shared expert"));
  }
  SMOE_RETURN_IF_ERROR(write_count(s_.shared_offset + 1));
  SMOE_RETURN_IF_ERROR(w_.device->fill(s_.shared_offset, 0, sizeof(int32_t)));
  if (w_.shared.int8) return shared_many_int8();
  const cu::Planes h = units(w_.shared, 1);
  cu::GroupedGemmArgs up = up_gemm(w_.shared, s_.shared_offset, rows_.max_tokens);
  up.out = h;
  SMOE_RETURN_IF_ERROR(launch(gemm(w_.shared), up, "shared expert"));
  cu::GroupedGemmArgs down = down_gemm(w_.shared, h, s_.shared_offset, rows_.max_tokens);
  down.out_f32 = s_.shared_out;
  return launch(gemm(w_.shared), down, "shared expert");
}

Status DeviceMoePass::experts_few() {
  if (w_.experts.int8) return experts_few_int8();
  const cu::Planes h = units(w_.experts, slots_);
  SMOE_RETURN_IF_ERROR(gate_up(w_.experts, s_.few, h));
  cu::DownCombineArgs args = down_args();
  args.h = h;
  return launch(table().down_combine, args, "down projection");
}

cu::DownCombineArgs DeviceMoePass::down_args() const {
  cu::DownCombineArgs args;
  args.weights = w_.experts.down_table.as<cu::AtomMatrix>();
  args.bias = w_.experts.down_bias.as<float>();
  args.hidden = w_.hidden;
  args.width = w_.experts.width;
  args.experts = w_.experts.experts;
  args.weight_on_input = on_input();
  args.bf16_only = w_.bf16_only(w_.experts);
  args.nested = nested(w_.experts);
  args.num_tokens = rows_.num_tokens;
  args.max_tokens = static_cast<int>(rows_.max_tokens);
  args.slots = slots_;
  args.shared = s_.shared_out;
  args.shared_scale = shared_scale();
  args.residual = rows_.residual;
  args.step = rows_.step;
  args.state = rows_.state;
  args.out = rows_.out;
  args.update_out = rows_.update_out;
  args.plan = s_.few;
  return args;
}

Status DeviceMoePass::experts_many() {
  if (w_.experts.int8) return experts_many_int8();
  const int64_t most = rows_.max_tokens * slots_;
  const cu::Planes h = units(w_.experts, slots_);
  cu::GroupedGemmArgs up = up_gemm(w_.experts, s_.many.offset, most);
  up.gather = s_.many.token;
  up.row_scale = on_input() ? s_.many.row_weight : nullptr;
  up.out = h;
  SMOE_RETURN_IF_ERROR(launch(gemm(w_.experts), up, "gate and up projections"));
  cu::GroupedGemmArgs down = down_gemm(w_.experts, h, s_.many.offset, most);
  down.out.data = s_.y;
  down.out_f32 = s_.y_f32;
  SMOE_RETURN_IF_ERROR(launch(gemm(w_.experts), down, "down projection"));
  return combine();
}

Status DeviceMoePass::combine() {
  cu::CombineRowsArgs args;
  args.y = s_.y;
  args.y_f32 = s_.y_f32;
  args.ids = ids();
  args.position = s_.many.position;
  args.weights = on_input() ? nullptr : slot_weights();
  args.slots = slots_;
  args.tokens = rows_.max_tokens;
  args.hidden = w_.hidden;
  args.shared = s_.shared_out;
  args.shared_scale = shared_scale();
  args.residual = rows_.residual;
  args.step = rows_.step;
  args.state = rows_.state;
  args.out = rows_.out;
  args.update_out = rows_.update_out;
  return launch(table().combine_rows, args, "combine");
}

cu::DispatchBits DeviceMoePass::counted(cu::DispatchBits plan) const {
  plan.expert_counts = rows_.expert_counts;
  return plan;
}

// Hidden units of a dispatch with `slots` assignments per token.
cu::Planes DeviceMoePass::units(const DeviceFfn& ffn, int slots) const {
  return {s_.h, rows_.max_tokens * slots * ffn.width, w_.parts};
}

// The number of rows, written as the runtime can write it: by bytes, least first.
Status DeviceMoePass::write_count(int32_t* to) {
  SMOE_RETURN_IF_ERROR(w_.device->fill(to, 0, sizeof(int32_t)));
  unsigned char* byte = reinterpret_cast<unsigned char*>(to);
  for (int64_t rest = rows_.max_tokens; rest != 0; rest >>= 8, ++byte) {
    SMOE_RETURN_IF_ERROR(w_.device->fill(byte, static_cast<int>(rest & 0xFF), 1));
  }
  return Status();
}

cu::RouteDispatchArgs DeviceMoePass::router_of_few() const {
  cu::RouteDispatchArgs args;
  args.x = rows_.hidden;
  args.w = w_.router.data();
  args.w_f32 = w_.router_f32;
  args.router_bias = w_.router_bias.as<float>();
  args.select_bias = w_.select_bias.as<float>();
  args.num_tokens = rows_.num_tokens;
  args.max_tokens = static_cast<int>(rows_.max_tokens);
  args.hidden = w_.hidden;
  args.splits = cu::route_splits(w_.config.router.experts, w_.hidden);
  args.config = w_.config.router;
  args.partials = s_.partials;
  args.tickets = s_.tickets;
  args.routing = routing_;
  args.logits = rows_.router_logits;
  args.plan = given() ? s_.few : counted(s_.few);
  return args;
}

cu::RouteManyArgs DeviceMoePass::router_of_many() const {
  cu::RouteManyArgs args;
  args.x = rows_.hidden;
  args.w = w_.router.data();
  args.w_f32 = w_.router_f32;
  args.router_bias = w_.router_bias.as<float>();
  args.select_bias = w_.select_bias.as<float>();
  args.tokens = rows_.max_tokens;
  args.hidden = w_.hidden;
  args.splits = cu::route_splits(w_.config.router.experts, w_.hidden);
  args.config = w_.config.router;
  args.partials = s_.partials;
  args.routing = routing_;
  args.logits = rows_.router_logits;
  args.histogram = s_.histogram;
  return args;
}

cu::GateUpArgs DeviceMoePass::gate_up_args(const DeviceFfn& ffn, const cu::DispatchBits& plan) const {
  cu::GateUpArgs args;
  args.weights = ffn.gate_up_table.as<cu::AtomMatrix>();
  args.glu = w_.config.glu;
  args.gate_bias = ffn.gate_bias.as<float>();
  args.up_bias = ffn.up_bias.as<float>();
  args.hidden = w_.hidden;
  args.width = ffn.width;
  args.experts = ffn.experts;
  args.activation = w_.config.activation;
  args.weight_on_input = on_input() && &ffn == &w_.experts;
  args.bf16_only = w_.bf16_only(ffn);
  args.nested = nested(ffn);
  args.max_tokens = static_cast<int>(rows_.max_tokens);
  args.slots = &ffn == &w_.experts ? slots_ : 1;
  args.blocks = grid();
  args.plan = plan;
  return args;
}

Status DeviceMoePass::gate_up(const DeviceFfn& ffn, const cu::DispatchBits& plan, const cu::Planes& h) {
  cu::GateUpArgs args = gate_up_args(ffn, plan);
  args.x = rows_.planes;
  args.h = h;
  return launch(table().gate_up, args, "gate and up projections");
}

// Tiles of wgmma have many rows; with few of them mma.sync was ahead (DeepSeek-V3, 16 per expert: 92 % of its roofline
// on an H200, 81 % on wgmma).
GroupedGemm DeviceMoePass::gemm(const DeviceFfn& ffn) const {
  return grouped_gemm(*w_.device, w_.bf16_only(ffn) && rows_.max_tokens > cu::kDispatchMaxTokens);
}
cu::GroupedGemmArgs DeviceMoePass::any_gemm(const DeviceFfn& ffn, const int32_t* offset, int64_t most) const {
  cu::GroupedGemmArgs args;
  args.experts = ffn.experts;
  args.offset = offset;
  args.max_rows = most;
  args.max_groups = static_cast<int>(std::min<int64_t>(ffn.experts, most));
  args.bf16_only = w_.bf16_only(ffn);
  args.nested = nested(ffn);
  args.no_codes = ffn.no_codes;
  args.blocks = w_.device->info().sms;
  return args;
}
cu::GroupedGemmArgs DeviceMoePass::up_gemm(const DeviceFfn& ffn, const int32_t* offset, int64_t most) const {
  cu::GroupedGemmArgs args = any_gemm(ffn, offset, most);
  args.weights = ffn.gate_up_table.as<cu::AtomMatrix>();
  args.k = w_.hidden;
  args.features = ffn.width;
  args.glu = w_.config.glu;
  args.activate = !w_.config.glu;
  args.activation = w_.config.activation;
  args.gate_bias = ffn.gate_bias.as<float>();
  args.bias = ffn.up_bias.as<float>();
  args.x = rows_.planes;
  args.x_stride = w_.hidden;
  return args;
}
cu::GroupedGemmArgs DeviceMoePass::down_gemm(const DeviceFfn& ffn, const cu::Planes& h, const int32_t* offset,
                                             int64_t most) const {
  cu::GroupedGemmArgs args = any_gemm(ffn, offset, most);
  args.weights = ffn.down_table.as<cu::AtomMatrix>();
  args.k = ffn.width;
  args.features = w_.hidden;
  args.bias = ffn.down_bias.as<float>();
  args.x = h;
  args.x_stride = ffn.width;
  return args;
}

}  // namespace smoe
