#include "decoder/device_dense.h"

namespace smoe {
namespace {

cu::Planes take_units(int64_t units, Precision precision, int64_t rows, DeviceArena* arena) {
  return take_planes(arena, rows * units, activation_parts(precision));
}

Status few_units(const DevicePass& pass, const DeviceDense& dense, const cu::Planes& input, const cu::Planes& units) {
  cu::GateUpArgs up;
  up.weights = dense.table.as<cu::AtomMatrix>();
  up.glu = dense.glu;
  up.gate_bias = dense.gate_bias.as<float>();
  up.up_bias = dense.up_bias.as<float>();
  up.x = input;
  up.h = units;
  up.hidden = dense.up.cols;
  up.width = dense.width;
  up.experts = 1;
  up.activation = dense.activation;
  up.bf16_only = dense.bf16_only;
  up.max_tokens = static_cast<int>(pass.rows);
  up.blocks = 2 * pass.sms();
  up.plan.mask = &pass.input->dense_mask;
  up.plan.offset = pass.input->dense_offset;
  SMOE_ENQUEUE(*pass.device, gate_up, up);
  return Status();
}

Status many_units(const DevicePass& pass, const DeviceDense& dense, const cu::Planes& input, const cu::Planes& units) {
  cu::GroupedGemmArgs up;
  up.weights = dense.table.as<cu::AtomMatrix>();
  up.experts = 1;
  up.k = up.x_stride = dense.up.cols;
  up.features = dense.width;
  up.glu = dense.glu;
  up.activate = !dense.glu;
  up.activation = dense.activation;
  up.gate_bias = dense.gate_bias.as<float>();
  up.bias = dense.up_bias.as<float>();
  up.x = input;
  up.offset = pass.input->dense_offset;
  up.max_rows = pass.rows;
  up.max_groups = 1;
  up.bf16_only = dense.bf16_only;
  up.no_codes = dense.up.view.scales == nullptr;
  up.out = units;
  up.blocks = pass.sms();
  return launch(*pass.device, grouped_gemm(*pass.device, dense.bf16_only), up, "grouped_gemm");
}

}  // namespace

size_t dense_bytes(int64_t units, Precision precision, int64_t rows) {
  DeviceArena measure(nullptr);
  take_units(units, precision, rows, &measure);
  return measure.bytes();
}

Status enqueue_dense(const DevicePass& pass, const DeviceDense& dense, Precision precision, const cu::Planes& input,
                     float* x, DeviceArena scratch) {
  const cu::Planes units = take_units(dense.width, precision, pass.rows, &scratch);
  SMOE_RETURN_IF_ERROR(pass.few() ? few_units(pass, dense, input, units) : many_units(pass, dense, input, units));
  cu::LinearArgs down;
  down.x = units;
  down.x_stride = dense.width;
  down.bias = dense.down_bias.as<float>();
  down.residual = x;
  down.out = x;
  return enqueue_linear(pass, dense.down, down);
}

}  // namespace smoe
