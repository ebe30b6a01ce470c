#include "layer/device_moe_weights.h"

#include <algorithm>

#include "device/nested_matrix.h"
#include "kernels/experts/int8_args.h"
#include "kernels/route/route_args.h"

namespace smoe {
namespace {

int64_t padded(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

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

bool integers(const DeviceMatrix& matrix) {
  return cu::int8_format(matrix.view.format) && matrix.view.plane_count == 0;
}

Status refuse_int8(const PackedMatrix& matrix, size_t expert, const char* tensor) {
  return error(
      Code::InvalidSpec,
      "activations \"int8\" need experts of integers of at most 8 bits in groups of 32 columns, but expert %zu "
      "%s is %s/%lld: use activations \"bf16\"",
      expert, tensor, weight_format_name(matrix.format), static_cast<long long>(matrix.group));
}

void add_group(const DeviceMatrix& matrix, std::vector<int>* groups) {
  if (std::find(groups->begin(), groups->end(), matrix.view.group) == groups->end()) {
    groups->push_back(matrix.view.group);
  }
}

// Whether int8 activations are multiplied, and in which groups.
Status plan_int8(const MoeLayerConfig& config, DeviceFfn* ffn) {
  if (config.activations != Activations::Int8) return Status();
  for (const DeviceMatrix& up : ffn->gate_up) {
    if (!integers(up)) return Status();
    add_group(up, &ffn->groups);
  }
  for (const DeviceMatrix& down : ffn->down) {
    if (!integers(down)) return Status();
    add_group(down, &ffn->down_groups);
  }
  if (ffn->groups.size() > cu::kInt8Groups && !config.router.weight_on_input) {
    return error(Code::InvalidSpec,
                 "activations \"int8\" serve at most %d sizes of groups among the gate and up projections of a layer, "
                 "got %zu: use activations \"bf16\"",
                 cu::kInt8Groups, ffn->groups.size());
  }
  ffn->int8 = true;
  return Status();
}

// Whether a bit-nested matrix lies decoded.
bool lies_decoded(const PackedMatrix& from, const DeviceMatrix& to) {
  return from.format == WeightFormat::WN && to.view.scales == nullptr;
}

// Under int8 activations the routed experts' matrices must be of integers; others are refused by name.
Status upload_ffn(Device& device, const std::vector<ExpertWeights>& from, const MoeLayerConfig& config, int64_t hidden,
                  bool routed, ThreadPool& pool, const CancelFlag* cancel, DeviceFfn* out) {
  const bool integers_only = routed && config.activations == Activations::Int8;
  out->experts = static_cast<int>(from.size());
  for (const ExpertWeights& expert : from) {
    out->width = std::max(out->width, padded(expert.up.rows, config.glu ? 8 : 16));
  }
  // The kernels for routed experts know residual planes; the shared expert's linear maps do not.
  const auto upload_plain = routed ? upload_nested_padded : upload_padded;
  const auto upload_pair = routed ? upload_nested_gate_up_padded : upload_gate_up_padded;
  for (const ExpertWeights& expert : from) {
    DeviceMatrix up, down;
    if (config.glu) {
      SMOE_RETURN_IF_ERROR(
          upload_pair(device, expert.gate, expert.up, out->width, hidden, config.precision, pool, cancel, &up));
    } else {
      SMOE_RETURN_IF_ERROR(upload_plain(device, expert.up, out->width, hidden, config.precision, pool, cancel, &up));
    }
    const size_t index = out->down.size();
    if (integers_only && !integers(up)) return refuse_int8(expert.up, index, config.glu ? "gate and up" : "up");
    SMOE_RETURN_IF_ERROR(upload_plain(device, expert.down, hidden, out->width, config.precision, pool, cancel, &down));
    if (integers_only && !integers(down)) return refuse_int8(expert.down, index, "down");
    out->nested = out->nested || up.view.plane_count > 0 || down.view.plane_count > 0;
    out->decoded_nested = out->decoded_nested || lies_decoded(expert.gate, up) || lies_decoded(expert.up, up) ||
                          lies_decoded(expert.down, down);
    out->gate_up.push_back(std::move(up));
    out->down.push_back(std::move(down));
  }
  SMOE_RETURN_IF_ERROR(plan_int8(config, out));
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
  Device& on = *made.device;
  made.router_f32 = from.router_weight.format != WeightFormat::BF16;
  SMOE_RETURN_IF_ERROR(upload_rows(on, from.router_weight, hidden, &made.router));
  SMOE_RETURN_IF_ERROR(upload_floats(on, from.router_bias, &made.router_bias));
  SMOE_RETURN_IF_ERROR(upload_floats(on, from.model_bias, &made.select_bias));
  SMOE_RETURN_IF_ERROR(upload_ffn(on, from.experts, from.config, hidden, true, pool, cancel, &made.experts));
  if (!from.shared.empty()) {
    SMOE_RETURN_IF_ERROR(upload_ffn(on, from.shared, from.config, hidden, false, pool, cancel, &made.shared));
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
