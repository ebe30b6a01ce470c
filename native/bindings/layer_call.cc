#include "bindings/layer_call.h"

#include <cstring>

#include "bindings/router_config.h"

namespace smoe {
namespace {

Status check_finite_rows(const float* data, int64_t rows, int64_t cols, const char* name) {
  const int64_t row = first_non_finite_row(data, rows, cols);
  if (row < 0) return {};
  return error(Code::NonFiniteInput, "%s: row %lld holds NaN or infinity", name, static_cast<long long>(row));
}

}  // namespace

int64_t first_non_finite_row(const float* data, int64_t rows, int64_t cols) {
  for (int64_t row = 0; row < rows; row++) {
    const float* values = data + row * cols;
    // All exponent bits set means NaN or infinity. No early exit inside a row, so that the loop vectorises.
    uint32_t bad = 0;
    for (int64_t i = 0; i < cols; i++) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      bad |= (bits & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    }
    if (bad != 0) return row;
  }
  return -1;
}

Status active_kernels(const KernelTable** out) {
  *out = kernels();
  if (*out != nullptr) return {};
  return Status(Code::IsaUnavailable, "SMOE_ISA names an instruction set that is unknown or not usable here");
}

Status LayerCall::run(Workspace& work) {
  const KernelTable* table;
  SMOE_RETURN_IF_ERROR(active_kernels(&table));
  const int64_t h = layer->config.hidden;
  const auto count = static_cast<size_t>(tokens * h);
  const float ahead = state != nullptr ? lookahead(state->spec, state->depth) : 0.0f;
  const bool convert = dtype != Dtype::F32;

  const auto pairs = static_cast<size_t>(tokens * given.slots);
  const size_t array = Workspace::bytes_for<float>(count);
  const size_t scratch =
      (convert ? 2 * array : 0) + (ahead != 0 ? array : 0) + 2 * Workspace::bytes_for<int32_t>(pairs);
  if (scratch > 0) SMOE_RETURN_IF_ERROR(work.nested().reserve(scratch));
  if (pairs > 0) {
    // Ids become addresses. A copy, because in shared memory another thread could change them after the check.
    const Routing source = given;
    given.ids = work.nested().take<int32_t>(pairs);
    given.weights = work.nested().take<float>(pairs);
    std::memcpy(given.ids, source.ids, pairs * sizeof(int32_t));
    std::memcpy(given.weights, source.weights, pairs * sizeof(float));
    SMOE_RETURN_IF_ERROR(
        check_assignments(given.ids, given.weights, tokens, given.slots, layer->config.router.experts));
  }
  const float* input = static_cast<const float*>(hidden);
  float* result = static_cast<float*>(out);
  if (convert) {
    float* widened = work.nested().take<float>(count);
    to_f32(hidden, dtype, count, widened);
    input = widened;
    result = work.nested().take<float>(count);
  }
  SMOE_RETURN_IF_ERROR(check_finite_rows(input, tokens, h, "hidden"));
  if (residual != nullptr) SMOE_RETURN_IF_ERROR(check_finite_rows(residual, tokens, h, "residual"));

  MoeLayer::Forward args;
  args.hidden = input;
  args.residual = residual;
  args.tokens = tokens;
  args.routing = given.slots > 0 ? &given : nullptr;
  args.out = result;
  args.expert_bits = expert_bits.empty() ? nullptr : expert_bits.data();
  args.expert_counts = counts;
  args.cancel = cancel;
  if (residual != nullptr) args.step.kind = ResidualKind::Add;
  if (state != nullptr) {
    if (residual == nullptr) args.residual = input;
    args.step = residual_step(state->spec, state->depth);
    args.state = state->pointers();
    if (ahead != 0) {  // u = hidden + c*m is what router and experts see; the residual stream stays as it is
      float* u = work.nested().take<float>(count);
      std::memcpy(u, input, count * sizeof(float));
      table->axpy(ahead, args.state.m, static_cast<int64_t>(count), u);
      args.hidden = u;
    }
    // Adam may first act above layer 0; until then read() must not show uninitialised memory.
    if (state->depth == 0 && state->spec.type == MomentumType::Adam) {
      std::memset(args.state.p, 0, count * sizeof(float));
      std::memset(args.state.v, 0, count * sizeof(float));
    }
    state->broken = true;  // until the last row is done
  }
  if (device != nullptr) {
    SMOE_RETURN_IF_ERROR(device->forward(args));
  } else {
    SMOE_RETURN_IF_ERROR(layer->forward(args, *table, ThreadPool::process(), work));
  }
  if (convert) from_f32(result, count, dtype, out);
  if (state != nullptr) {
    state->broken = false;
    state->depth++;
  }
  return {};
}

}  // namespace smoe
