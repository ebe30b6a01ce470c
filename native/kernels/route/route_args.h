// Arguments of the CUDA kernels that route and dispatch.
#pragma once

#include "cuda/operands.h"
#include "kernels/route/router.h"

namespace smoe::cu {

// How K1 and P1 cut the router's matrix: blocks of kRouterRows experts, or twice as many where there are many; chunks
// of kRouterChunk columns; ranges of chunks, which the kRouterWarps warps of a block share.
constexpr int kRouterRows = 16, kRouterWarps = 8, kRouterChunk = 32;

// Row tiles of one block of K1. Two where the inputs of 64 tokens would otherwise be read by more than eight rows of
// blocks.
inline int route_row_tiles(int64_t experts) { return experts > 8 * kRouterRows ? 2 : 1; }

// Ranges of K, so that the grid of K1 has about `target` blocks. A function of E and H alone: the order of additions,
// and with it a token's logits, must not depend on the number of tokens.
inline int route_splits(int64_t experts, int64_t hidden, int target = 128) {
  const int64_t rows = kRouterRows * route_row_tiles(experts);
  const int64_t row_blocks = (experts + rows - 1) / rows;
  const int64_t chunks = (hidden + kRouterChunk - 1) / kRouterChunk;
  const int64_t most = (chunks + kRouterWarps - 1) / kRouterWarps;
  const int64_t wanted = target / row_blocks < 1 ? 1 : target / row_blocks;
  return static_cast<int>(wanted < most ? wanted : most);
}

// Ranges are added up in at most four parts, then the parts: P1 has blocks that walk a whole part.
SMOE_HD constexpr int route_part(int splits) { return (splits + 3) / 4; }

// What one warp, which routes a token, may hold.
constexpr int kRouteMaxExperts = 1024, kRouteMaxSlots = 32, kRouteMaxGroups = 32;
inline bool route_fits(const RouterConfig& config, int64_t hidden) {
  return config.experts <= kRouteMaxExperts && config.k <= kRouteMaxSlots && config.groups <= kRouteMaxGroups &&
         hidden % 8 == 0;
}

// Dispatch of up to 64 tokens as bit masks. A row is a (token, expert) pair, ordered by expert, then token.
constexpr int kDispatchMaxTokens = 64;
struct DispatchBits {
  uint64_t* mask = nullptr;           // [E]      bit t: token t uses the expert
  int32_t* offset = nullptr;          // [E + 1]  first row of the expert's pairs
  int32_t* position = nullptr;        // [T, K]   row of a pair, -1 for unused slots; may be null
  float* row_weight = nullptr;        // [T * K]  weight of a row; may be null
  uint64_t* expert_counts = nullptr;  // [E] added to; may be null
};

// Dispatch of any number of tokens: the same order of rows.
struct DispatchRows {
  int32_t* offset = nullptr;          // [E + 1]
  int32_t* token = nullptr;           // [T * K] token of a row
  int32_t* position = nullptr;        // [T, K]  row of a pair, -1 for unused slots
  float* row_weight = nullptr;        // [T * K]
  uint64_t* expert_counts = nullptr;  // [E] added to; may be null
};

// Assignments of T tokens (Routing in router.h), on the device.
struct RoutingOut {
  int32_t* ids = nullptr;    // [T, K]
  float* weights = nullptr;  // [T, K]
  int32_t* count = nullptr;  // [T]
};

// K1: logits, selection and dispatch of up to 64 tokens in one launch.
struct RouteDispatchArgs {
  const float* x = nullptr;  // [T, H]
  const void* w = nullptr;   // [E, H] row-major, bf16 or f32
  bool w_f32 = false;
  const float* router_bias = nullptr;  // [E] added to logits, or null
  const float* select_bias = nullptr;  // [E], read with config.has_bias
  // On the device, at most max_tokens; rows from there on are not read. Not written by what comes before this launch in
  // the stream, which K1 does not wait for to read it. Null: max_tokens.
  const int32_t* num_tokens = nullptr;
  int max_tokens = 64;  // at most 64: the grid
  int64_t hidden = 0;   // a multiple of 8
  int splits = 1;       // of K: route_splits()
  RouterConfig config;
  float* partials = nullptr;    // scratch [splits, 64, E]
  uint32_t* tickets = nullptr;  // scratch [9], zero before the first launch and after each
  RoutingOut routing;
  float* logits = nullptr;  // [T, E] for traces, or null
  DispatchBits plan;
};

// Dispatch of given assignments, up to 64 tokens. Ids outside [0, experts) are unused slots.
struct DispatchGivenArgs {
  const int32_t* ids = nullptr;  // [T, K]
  const float* weights = nullptr;
  const int32_t* num_tokens = nullptr;  // null: max_tokens
  int max_tokens = 64, slots = 0, experts = 0;
  DispatchBits plan;
};

// P1: logits and selection of any number of tokens, and per block of kRouteManyTokens tokens how many go to each
// expert. The sums over K run in the order of K1 (the same `splits`), so that a token's experts do not depend on the
// number of tokens. Two launches: sums over ranges or parts of K, then the selection.
constexpr int kRouteManyTokens = 32;
constexpr int kManyTileTokens = 64;
inline int64_t route_many_rows(int64_t experts) { return experts <= 16 ? 16 : experts <= 64 ? 64 : 128; }
// Token tiles from which on blocks walk a part of K; before, they walk a range each, which would otherwise leave SMs
// without a block.
inline int64_t route_many_tiles(int64_t experts, int splits) {
  const int64_t rows = route_many_rows(experts), part = route_part(splits);
  const int64_t blocks = (experts + rows - 1) / rows * ((splits + part - 1) / part);
  return (128 + blocks - 1) / blocks;
}
inline int route_many_run(int64_t tokens, int64_t experts, int splits) {
  return tokens > (route_many_tiles(experts, splits) - 1) * kManyTileTokens ? route_part(splits) : 1;
}
// Floats of RouteManyArgs::partials for up to so many tokens.
inline int64_t route_many_partials(int64_t tokens, int64_t experts, int splits) {
  const int64_t few = (route_many_tiles(experts, splits) - 1) * kManyTileTokens, part = route_part(splits);
  const int64_t ranges = splits * (tokens < few ? tokens : few), parts = (splits + part - 1) / part * tokens;
  return (ranges > parts ? ranges : parts) * experts;
}
struct RouteManyArgs {
  const float* x = nullptr;  // [T, H]
  const void* w = nullptr;   // [E, H]
  bool w_f32 = false;
  const float* router_bias = nullptr;
  const float* select_bias = nullptr;
  int64_t tokens = 0, hidden = 0;
  int splits = 1;
  RouterConfig config;
  float* partials = nullptr;  // scratch, route_many_partials()
  int run = 0;                // route_many_run(), by the launch
  RoutingOut routing;
  float* logits = nullptr;       // [T, E] or null
  int32_t* histogram = nullptr;  // [ceil(T / kRouteManyTokens), E]
};

// The histogram of given assignments.
struct HistogramArgs {
  const int32_t* ids = nullptr;  // [T, K]
  int64_t tokens = 0;
  int slots = 0, experts = 0;
  int32_t* histogram = nullptr;
};

// P2: prefix sums of the histogram and a stable scatter.
struct ScatterArgs {
  const int32_t* ids = nullptr;    // [T, K]
  const float* weights = nullptr;  // [T, K]
  const int32_t* histogram = nullptr;
  int64_t tokens = 0;
  int slots = 0, experts = 0;
  DispatchRows plan;
};

}  // namespace smoe::cu
