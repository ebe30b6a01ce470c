// The stages of device_moe_pass.cc for experts with int8 activations. What a projection reads is quantised before it,
// in the groups of its weights, by a launch of its own: a scale needs a whole group of its row.
#include "layer/device_moe_pass.h"

namespace smoe {

// The rows of a dispatch, by bits or by lists.
struct DeviceMoePass::Int8Dispatch {
  const int32_t* offset = nullptr;
  int64_t most = 0;                 // rows at most
  const uint64_t* mask = nullptr;   // their tokens, or
  const int32_t* gather = nullptr;  // the same; neither: row r is token r
  const float* weights = nullptr;   // on the input
};

// By token in each group there is; where weights go in, by row.
Status DeviceMoePass::quantize_input(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows) {
  cu::QuantizeRowsArgs args;
  args.x = rows_.hidden;
  args.x_stride = args.k = w_.hidden;
  args.out = s.x;
  args.blocks = grid();
  if (s.x.dispatched) {
    args.max_rows = rows.most;
    args.weights = ffn.gate_up_table.as<cu::AtomMatrix>();
    args.experts = ffn.experts;
    args.offset = rows.offset;
    args.mask = rows.mask;
    args.gather = rows.gather;
    args.row_scale = rows.weights;
  } else {
    args.max_rows = rows_.max_tokens;
    args.num_rows = rows_.num_tokens;
  }
  return launch(table().quantize_rows, args, "int8 activations");
}

Status DeviceMoePass::quantize_units(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows) {
  cu::QuantizeRowsArgs args;
  args.x = s.units;
  args.x_stride = args.k = ffn.width;
  args.out.rows[0] = s.h;
  args.out.count = 1;
  args.out.dispatched = true;
  args.max_rows = rows.most;
  args.weights = ffn.down_table.as<cu::AtomMatrix>();
  args.experts = ffn.experts;
  args.offset = rows.offset;
  args.blocks = grid();
  return launch(table().quantize_rows, args, "int8 activations");
}

Status DeviceMoePass::units_few_int8(const DeviceFfn& ffn, const DeviceInt8& s, const cu::DispatchBits& plan,
                                     int slots) {
  const Int8Dispatch rows{plan.offset, rows_.max_tokens * slots, plan.mask, nullptr, plan.row_weight};
  SMOE_RETURN_IF_ERROR(quantize_input(ffn, s, rows));
  cu::GateUpInt8Args up;
  up.map = gate_up_args(ffn, plan);
  up.x = s.x;
  up.h = s.units;
  SMOE_RETURN_IF_ERROR(launch(table().gate_up_int8, up, "gate and up projections"));
  return quantize_units(ffn, s, rows);
}

Status DeviceMoePass::experts_few_int8() {
  SMOE_RETURN_IF_ERROR(units_few_int8(w_.experts, s_.int8, s_.few, slots_));
  cu::DownCombineInt8Args down;
  down.map = down_args();
  down.h = s_.int8.h;
  return launch(table().down_combine_int8, down, "down projection");
}

// K3 of one expert that takes every token with weight 1.
Status DeviceMoePass::shared_few_int8() {
  SMOE_RETURN_IF_ERROR(units_few_int8(w_.shared, s_.shared_int8, s_.shared_few, 1));
  cu::DownCombineInt8Args down;
  down.map.weights = w_.shared.down_table.as<cu::AtomMatrix>();
  down.map.bias = w_.shared.down_bias.as<float>();
  down.map.hidden = w_.hidden;
  down.map.width = w_.shared.width;
  down.map.experts = 1;
  down.map.weight_on_input = true;
  down.map.num_tokens = rows_.num_tokens;
  down.map.max_tokens = static_cast<int>(rows_.max_tokens);
  down.map.out = s_.shared_out;
  down.map.plan = s_.shared_few;
  down.h = s_.shared_int8.h;
  return launch(table().down_combine_int8, down, "shared expert");
}

Status DeviceMoePass::units_many_int8(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows) {
  SMOE_RETURN_IF_ERROR(quantize_input(ffn, s, rows));
  cu::GroupedGemmInt8Args up;
  up.map = up_gemm(ffn, rows.offset, rows.most);
  up.map.gather = s.x.dispatched ? nullptr : rows.gather;
  up.map.out_f32 = s.units;
  up.x = s.x;
  SMOE_RETURN_IF_ERROR(launch(table().grouped_gemm_int8, up, "gate and up projections"));
  return quantize_units(ffn, s, rows);
}

Status DeviceMoePass::down_many_int8(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows, float* out) {
  cu::GroupedGemmInt8Args down;
  down.map = down_gemm(ffn, {}, rows.offset, rows.most);
  down.map.out_f32 = out;
  down.x.rows[0] = s.h;
  down.x.count = 1;
  down.x.dispatched = true;
  return launch(table().grouped_gemm_int8, down, "down projection");
}

Status DeviceMoePass::experts_many_int8() {
  const Int8Dispatch rows{s_.many.offset, rows_.max_tokens * slots_, nullptr, s_.many.token, s_.many.row_weight};
  SMOE_RETURN_IF_ERROR(units_many_int8(w_.experts, s_.int8, rows));
  SMOE_RETURN_IF_ERROR(down_many_int8(w_.experts, s_.int8, rows, s_.y_f32));
  return combine();
}

Status DeviceMoePass::shared_many_int8() {
  const Int8Dispatch rows{s_.shared_offset, rows_.max_tokens};
  SMOE_RETURN_IF_ERROR(units_many_int8(w_.shared, s_.shared_int8, rows));
  return down_many_int8(w_.shared, s_.shared_int8, rows, s_.shared_out);
}

}  // namespace smoe
