#include "layer/route_stage.h"

#include <cstring>

namespace smoe {
namespace {

// Selecting among E experts costs a few nanoseconds each; below this many scores the caller does it alone.
constexpr int64_t kInlineScores = 1 << 12;
// Tokens per work item, so that the counter is not touched for every token.
constexpr int64_t kTokensPerItem = 16;

}  // namespace

size_t route_workspace_bytes(int64_t tokens, int64_t hidden, int64_t experts, int slots) {
  const size_t t = static_cast<size_t>(tokens), e = static_cast<size_t>(experts), k = static_cast<size_t>(slots);
  return Workspace::bytes_for<float>(t * e) +
         Workspace::bytes_for<unsigned char>(linear_workspace_bytes(tokens, hidden)) +
         Workspace::bytes_for<float>(2 * e * kMaxPoolThreads) + 2 * Workspace::bytes_for<int32_t>(t * k) +
         Workspace::bytes_for<int32_t>(t);
}

void route_rows(const KernelTable& kernels, ThreadPool& pool, const RouterConfig& config, const float* logits,
                const float* bias, float* scratch, Routing* out) {
  const int64_t e = config.experts;
  const auto route_range = [&](int64_t first, int64_t last, float* mine) {
    for (int64_t token = first; token < last; ++token) {
      route_token(kernels, config, logits + token * e, bias, mine, out->ids + token * out->slots,
                  out->weights + token * out->slots, out->count + token);
    }
  };
  if (out->tokens * e <= kInlineScores) {
    route_range(0, out->tokens, scratch);
    return;
  }
  pool.parallel_for((out->tokens + kTokensPerItem - 1) / kTokensPerItem, [&](int64_t item, int worker) {
    const int64_t first = item * kTokensPerItem;
    const int64_t last = first + kTokensPerItem < out->tokens ? first + kTokensPerItem : out->tokens;
    route_range(first, last, scratch + worker * 2 * e);
  });
}

Routing route_stage(const MoeLayer& layer, const MoeLayer::Forward& args, const KernelTable& kernels, ThreadPool& pool,
                    Workspace& workspace) {
  const int64_t e = layer.config.router.experts, t = args.tokens;
  Routing routing;
  const bool want_logits = args.routing == nullptr || args.router_logits != nullptr;
  float* logits = args.router_logits;
  if (want_logits) {
    if (logits == nullptr) logits = workspace.take<float>(static_cast<size_t>(t * e));
    LinearArgs affinity;
    affinity.weight = &layer.router_weight;
    affinity.bias = layer.router_bias.empty() ? nullptr : layer.router_bias.data();
    affinity.x = args.hidden;
    affinity.rows = t;
    affinity.out = logits;
    // Logits are always computed from f32 activations: bf16 ones change the selected set for a few per cent of tokens
    // (specs/routing.md C.6).
    linear(kernels, pool, Precision::Exact, affinity,
           workspace.take<unsigned char>(linear_workspace_bytes(t, layer.config.hidden)));
  }
  if (args.routing != nullptr) {
    routing = *args.routing;
  } else {
    const size_t pairs = static_cast<size_t>(t) * static_cast<size_t>(layer.config.router.k);
    routing.tokens = t;
    routing.slots = layer.config.router.k;
    routing.ids = workspace.take<int32_t>(pairs);
    routing.weights = workspace.take<float>(pairs);
    routing.count = workspace.take<int32_t>(static_cast<size_t>(t));
    float* scratch = workspace.take<float>(static_cast<size_t>(2 * e * kMaxPoolThreads));
    route_rows(kernels, pool, layer.config.router, logits, layer.model_bias.empty() ? nullptr : layer.model_bias.data(),
               scratch, &routing);
  }
  if (args.routing_out != nullptr) {
    const size_t pairs = static_cast<size_t>(t) * static_cast<size_t>(routing.slots);
    std::memcpy(args.routing_out->ids, routing.ids, pairs * sizeof(int32_t));
    std::memcpy(args.routing_out->weights, routing.weights, pairs * sizeof(float));
    if (args.routing_out->count != nullptr && routing.count != nullptr) {
      std::memcpy(args.routing_out->count, routing.count, static_cast<size_t>(t) * sizeof(int32_t));
    }
  }
  return routing;
}

Dispatch dispatch_stage(const Routing& routing, int64_t experts, uint64_t* counts, Workspace& workspace) {
  const size_t pairs = static_cast<size_t>(routing.tokens) * static_cast<size_t>(routing.slots);
  Dispatch plan;
  plan.offsets = workspace.take<int32_t>(static_cast<size_t>(experts) + 1);
  plan.token = workspace.take<int32_t>(pairs);
  plan.slot = workspace.take<int32_t>(pairs);
  plan.position = workspace.take<int32_t>(pairs);
  dispatch(routing.ids, routing.tokens, routing.slots, experts, &plan);
  if (counts != nullptr) {
    for (int64_t expert = 0; expert < experts; ++expert) {
      counts[expert] += static_cast<uint64_t>(plan.offsets[expert + 1] - plan.offsets[expert]);
    }
  }
  return plan;
}

}  // namespace smoe
