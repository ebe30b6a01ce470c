// The first two stages of a layer on its workspace: logits and assignments, then rows grouped by expert.
#pragma once

#include "layer/moe_layer.h"

namespace smoe {

// Most assignments per token; bounds stack arrays. The widest router in use takes 16 or fewer.
constexpr int kMaxSlots = 64;

size_t route_workspace_bytes(int64_t tokens, int64_t hidden, int64_t experts, int slots);

// The given assignments, or those the layer's router chooses; copies to args.router_logits and args.routing_out.
Routing route_stage(const MoeLayer& layer, const MoeLayer::Forward& args, const KernelTable& kernels, ThreadPool& pool,
                    Workspace& workspace);

// counts (nullable) [E] is added to.
Dispatch dispatch_stage(const Routing& routing, int64_t experts, uint64_t* counts, Workspace& workspace);

// Routes `tokens` rows of logits [T, E] into `out`; scratch for 2*E floats per worker.
void route_rows(const KernelTable& kernels, ThreadPool& pool, const RouterConfig& config, const float* logits,
                const float* bias, float* scratch, Routing* out);

}  // namespace smoe
