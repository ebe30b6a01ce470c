#include "layer/device_moe_weights.h"

#include <algorithm>

#include "kernels/route/route_args.h"

namespace smoe {
namespace {

int64_t padded(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

bool is_nested(const ExpertWeights& expert) {
  return expert.gate.format == WeightFormat::WN || expert.up.format == WeightFormat::WN ||
         expert.down.format == WeightFormat::WN;
}

// One bias of every expert, [experts, width], zero where an expert has none or is narrower; empty when none has one.
Status upload_biases(Device& device, const std::vector<ExpertWeights>& from, std::vector<float> ExpertWeights::* bias,
                     int64_t width, DeviceBuffer* out) {
  std::vector<float> all;
  for (size_t e = 0; e < from.size(); ++e) {
    const std::vector<float>& mine = from[e].*bias;
    if (mine.empty()) continue;
    if (all.empty()) all.resize(from.size() * static_cast<size_t>(width));
    std::copy(mine.begin(), mine.end(), all.begin() + static_cast<int64_t>(e) * width);
  }
  return upload_floats(device, all, out);
}

Status upload_table(Device& device, const std::vector<DeviceMatrix>& matrices, DeviceFfn* ffn, DeviceBuffer* out) {
  std::vector<cu::AtomMatrix> views;
  for (const DeviceMatrix& matrix : matrices) {
    views.push_back(matrix.view);
    ffn->all_bf16 = ffn->all_bf16 && matrix.view.format == cu::AtomFormat::Bf16;
    ffn->no_codes = ffn->no_codes && matrix.view.scales == nullptr;
  }
  return upload_bytes(device, views.data(), views.size() * sizeof(cu::AtomMatrix), out);
}

Status upload_ffn(Device& device, const std::vector<ExpertWeights>& from, const MoeLayerConfig& config, int64_t hidden,
                  ThreadPool& pool, const CancelFlag* cancel, DeviceFfn* out) {
  out->experts = static_cast<int>(from.size());
  for (const ExpertWeights& expert : from) {
    out->width = std::max(out->width, padded(expert.up.rows, config.glu ? 8 : 16));
  }
  for (const ExpertWeights& expert : from) {
    DeviceMatrix up, down;
    if (config.glu) {
      SMOE_RETURN_IF_ERROR(upload_gate_up_padded(device, expert.gate, expert.up, out->width, hidden, config.precision,
                                                 pool, cancel, &up));
    } else {
      SMOE_RETURN_IF_ERROR(upload_padded(device, expert.up, out->width, hidden, config.precision, pool, cancel, &up));
    }
    SMOE_RETURN_IF_ERROR(upload_padded(device, expert.down, hidden, out->width, config.precision, pool, cancel, &down));
    out->gate_up.push_back(std::move(up));
    out->down.push_back(std::move(down));
  }
  SMOE_RETURN_IF_ERROR(upload_table(device, out->gate_up, out, &out->gate_up_table));
  SMOE_RETURN_IF_ERROR(upload_table(device, out->down, out, &out->down_table));
  SMOE_RETURN_IF_ERROR(upload_biases(device, from, &ExpertWeights::gate_bias, out->width, &out->gate_bias));
  SMOE_RETURN_IF_ERROR(upload_biases(device, from, &ExpertWeights::up_bias, out->width, &out->up_bias));
  return upload_biases(device, from, &ExpertWeights::down_bias, hidden, &out->down_bias);
}

}  // namespace

size_t DeviceFfn::bytes() const {
  size_t total = gate_up_table.bytes() + down_table.bytes() + gate_bias.bytes() + up_bias.bytes() + down_bias.bytes();
  for (const DeviceMatrix& matrix : gate_up) total += matrix.bytes();
  for (const DeviceMatrix& matrix : down) total += matrix.bytes();
  return total;
}

size_t DeviceMoeWeights::bytes() const {
  return router.bytes() + router_bias.bytes() + select_bias.bytes() + experts.bytes() + shared.bytes() +
         shared_gate.bytes() + zero_ids.bytes();
}

Status upload_moe_weights(std::shared_ptr<Device> device, const MoeLayer& from, ThreadPool& pool,
                          const CancelFlag* cancel, DeviceMoeWeights* out) {
  const int64_t hidden = padded(from.config.hidden, 8);
  if (!cu::route_fits(from.config.router, hidden)) {
    return error(Code::InvalidSpec,
                 "the CUDA backend routes to at most %d of %d experts in %d groups, got %d of %lld in %d: use device "
                 "\"cpu\" for this layer",
                 cu::kRouteMaxSlots, cu::kRouteMaxExperts, cu::kRouteMaxGroups, from.config.router.k,
                 static_cast<long long>(from.config.router.experts), from.config.router.groups);
  }
  DeviceMoeWeights made;
  made.device = std::move(device);
  made.config = from.config;
  made.hidden = hidden;
  made.parts = activation_parts(from.config.precision);
  for (const ExpertWeights& expert : from.experts) made.nested = made.nested || is_nested(expert);
  Device& on = *made.device;
  made.router_f32 = from.router_weight.format != WeightFormat::BF16;
  SMOE_RETURN_IF_ERROR(upload_rows(on, from.router_weight, hidden, &made.router));
  SMOE_RETURN_IF_ERROR(upload_floats(on, from.router_bias, &made.router_bias));
  SMOE_RETURN_IF_ERROR(upload_floats(on, from.model_bias, &made.select_bias));
  SMOE_RETURN_IF_ERROR(upload_ffn(on, from.experts, from.config, hidden, pool, cancel, &made.experts));
  if (!from.shared.empty()) {
    SMOE_RETURN_IF_ERROR(upload_ffn(on, from.shared, from.config, hidden, pool, cancel, &made.shared));
    const int32_t zeros[cu::kDispatchMaxTokens] = {};
    SMOE_RETURN_IF_ERROR(upload_bytes(on, zeros, sizeof(zeros), &made.zero_ids));
  }
  if (!from.shared_gate.empty()) {
    made.shared_gate_f32 = from.shared_gate.format != WeightFormat::BF16;
    SMOE_RETURN_IF_ERROR(upload_rows(on, from.shared_gate, hidden, &made.shared_gate));
  }
  // What went wrong with a copy shows here and not in the first call.
  const auto guard = on.lock();
  SMOE_RETURN_IF_ERROR(on.synchronize());
  *out = std::move(made);
  return Status();
}

}  // namespace smoe
