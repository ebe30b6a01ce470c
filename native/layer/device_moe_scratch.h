// Memory of one pass of a MoE layer on a device.
#pragma once

#include <algorithm>

#include "device/arena.h"
#include "kernels/experts/int8_args.h"
#include "kernels/route/route_args.h"
#include "layer/device_moe_weights.h"

namespace smoe {

// Of experts with int8 activations: their input, their hidden units, and those in int8.
struct DeviceInt8 {
  cu::Int8Operand x;
  float* units = nullptr;  // [rows, width]
  cu::Int8Rows h;
};

struct DeviceMoeScratch {
  uint32_t* tickets = nullptr;  // first, so that a pass of any size finds them; zero between launches
  float* partials = nullptr;    // of K1 or P1
  cu::RoutingOut routing;
  cu::DispatchBits few;  // up to DeviceMoeWeights::few_rows() rows
  cu::DispatchRows many;
  int32_t* histogram = nullptr;
  cu::bf16* h = nullptr;  // activated hidden units, [parts][rows, width]; of the shared expert first
  DeviceInt8 int8, shared_int8;
  cu::bf16* y = nullptr;  // expert outputs of many tokens, [rows, H], or
  float* y_f32 = nullptr;
  // The shared expert: a dispatch of every token to one expert, its gate as a router over one expert.
  cu::DispatchBits shared_few;
  int32_t* shared_offset = nullptr;  // [2]: 0, T
  cu::RoutingOut shared_routing;     // its weights are the gate
  float* shared_out = nullptr;       // [T, H]
  size_t bytes = 0;
};

inline cu::RoutingOut take_routing(DeviceArena& arena, int64_t tokens, int slots) {
  return {arena.take<int32_t>(tokens * slots), arena.take<float>(tokens * slots), arena.take<int32_t>(tokens)};
}

inline cu::DispatchBits take_bits(DeviceArena& arena, int64_t experts) {
  cu::DispatchBits bits;
  bits.mask = arena.take<uint64_t>(experts);
  bits.offset = arena.take<int32_t>(experts + 1);
  return bits;
}

inline cu::Int8Rows take_int8_rows(DeviceArena& arena, int64_t rows, int64_t k, int64_t groups, int group) {
  const int64_t stride = cu::int8_stride(k);
  return {arena.take<uint8_t>(rows * stride), arena.take<cu::U32x2>(rows * groups), stride, groups, group};
}
// Rows of a dispatch, each in one of several groups.
inline cu::Int8Rows take_dispatched_rows(DeviceArena& arena, int64_t rows, int64_t k, const std::vector<int>& groups) {
  int64_t most = 1;
  for (const int group : groups) most = std::max(most, cu::int8_groups(k, group));
  return take_int8_rows(arena, rows, k, most, 0);
}

// weighted: the input is another one for each row of the dispatch.
inline DeviceInt8 take_int8(DeviceArena& arena, const DeviceFfn& ffn, int64_t tokens, int64_t rows, int64_t hidden,
                            bool weighted) {
  DeviceInt8 s;
  if (!ffn.int8) return s;
  s.x.dispatched = weighted;
  if (weighted) {
    s.x.rows[s.x.count++] = take_dispatched_rows(arena, rows, hidden, ffn.groups);
  } else {
    for (const int group : ffn.groups) {
      s.x.rows[s.x.count++] = take_int8_rows(arena, tokens, hidden, cu::int8_groups(hidden, group), group);
    }
  }
  s.units = arena.take<float>(rows * ffn.width);
  s.h = take_dispatched_rows(arena, rows, ffn.width, ffn.down_groups);
  return s;
}

// Null memory: to learn the bytes.
inline DeviceMoeScratch lay_out(const DeviceMoeWeights& w, int64_t tokens, int given_slots, void* memory) {
  DeviceArena arena(memory);
  DeviceMoeScratch s;
  const int64_t e = w.config.router.experts, slots = std::max(given_slots, w.config.router.k), rows = tokens * slots;
  s.tickets = arena.take<uint32_t>(9);
  s.routing = take_routing(arena, tokens, static_cast<int>(slots));
  int64_t units = w.experts.int8 ? 0 : rows * w.experts.width;
  if (w.shared.experts != 0) {
    if (!w.shared.int8) units = std::max(units, tokens * w.shared.width);
    s.shared_few = take_bits(arena, 1);
    s.shared_offset = arena.take<int32_t>(2);
    s.shared_routing = take_routing(arena, tokens, 1);
    s.shared_out = arena.take<float>(tokens * w.hidden);
  }
  s.h = arena.take<cu::bf16>(w.parts * units);
  s.int8 = take_int8(arena, w.experts, tokens, rows, w.hidden, w.config.router.weight_on_input);
  s.shared_int8 = take_int8(arena, w.shared, tokens, tokens, w.hidden, false);
  const int splits = cu::route_splits(e, w.hidden), gate_splits = cu::route_splits(1, w.hidden);
  if (tokens <= w.few_rows()) {
    // Of the router and of the gate of the shared expert.
    s.partials = arena.take<float>(std::max(splits * e, int64_t{gate_splits}) * cu::kDispatchMaxTokens);
    s.few = take_bits(arena, e);
    s.few.row_weight = arena.take<float>(rows);
  } else {
    s.partials = arena.take<float>(
        std::max(cu::route_many_partials(tokens, e, splits), cu::route_many_partials(tokens, 1, gate_splits)));
    s.histogram = arena.take<int32_t>((tokens + cu::kRouteManyTokens - 1) / cu::kRouteManyTokens * e);
    s.many.offset = arena.take<int32_t>(e + 1);
    s.many.token = arena.take<int32_t>(rows);
    s.many.position = arena.take<int32_t>(rows);
    s.many.row_weight = arena.take<float>(rows);
    if (w.parts != 1 || w.experts.int8) {  // the CPU rounds no output of experts
      s.y_f32 = arena.take<float>(rows * w.hidden);
    } else {
      s.y = arena.take<cu::bf16>(rows * w.hidden);
    }
  }
  s.bytes = arena.bytes();
  return s;
}

}  // namespace smoe
