#include "layer/moe_layer.h"

#include <algorithm>

#include "layer/route_stage.h"
#include "layer/row_blocks.h"

namespace smoe {
namespace {

// Scratch that one call may use before its tokens are cut into chunks: large enough that 512 tokens of every shape in
// common use go through at once, small enough to live beside a model.
constexpr size_t kWorkspaceBudget = size_t{512} << 20;
constexpr int64_t kMinChunk = 64, kMaxChunk = 4096;
// Rows times hidden size below which combining on the calling thread beats waking another.
constexpr int64_t kInlineCombine = 1 << 15;

// Rows grouped by expert, ready for expert_ffn, and where each assignment's result lies.
struct Grouped {
  ExpertGroup* groups;
  int64_t count = 0;
  float* expert_out;            // [pairs, H] in dispatch order
  float* shared_out = nullptr;  // [T, H]
};

Grouped group_rows(const MoeLayer& layer, const MoeLayer::Forward& args, const Routing& routing, const Dispatch& plan,
                   Workspace& workspace) {
  const int64_t h = layer.config.hidden;
  Grouped grouped;
  grouped.groups = workspace.take<ExpertGroup>(layer.experts.size() + 1);
  grouped.expert_out = workspace.take<float>(static_cast<size_t>(plan.pairs * h));
  const float** inputs = workspace.take<const float*>(static_cast<size_t>(plan.pairs));
  float* scale = nullptr;
  if (layer.config.router.weight_on_input) scale = workspace.take<float>(static_cast<size_t>(plan.pairs));
  for (int64_t pair = 0; pair < plan.pairs; ++pair) {
    inputs[pair] = args.hidden + plan.token[pair] * h;
    if (scale != nullptr) scale[pair] = routing.weights[int64_t{plan.token[pair]} * routing.slots + plan.slot[pair]];
  }
  for (size_t expert = 0; expert < layer.experts.size(); ++expert) {
    const int64_t first = plan.offsets[expert], rows = plan.offsets[expert + 1] - first;
    if (rows == 0) continue;
    ExpertGroup group;
    group.weights = &layer.experts[expert];
    group.rows = rows;
    group.inputs = inputs + first;
    group.input_scale = scale != nullptr ? scale + first : nullptr;
    group.out = grouped.expert_out + first * h;
    if (args.expert_bits != nullptr) group.planes = args.expert_bits[expert] - 2;
    grouped.groups[grouped.count++] = group;
  }
  if (!layer.shared.empty()) {
    grouped.shared_out = workspace.take<float>(static_cast<size_t>(args.tokens * h));
    const float** rows = workspace.take<const float*>(static_cast<size_t>(args.tokens));
    for (int64_t token = 0; token < args.tokens; ++token) rows[token] = args.hidden + token * h;
    ExpertGroup group;
    group.weights = &layer.shared[0];
    group.rows = args.tokens;
    group.inputs = rows;
    group.out = grouped.shared_out;
    grouped.groups[grouped.count++] = group;
  }
  return grouped;
}

// Factor of the shared expert per token: sigmoid(gate . x), or null for 1.
const float* shared_scale(const MoeLayer& layer, const MoeLayer::Forward& args, const KernelTable& kernels,
                          ThreadPool& pool, Workspace& workspace) {
  if (layer.shared_gate.empty()) return nullptr;
  float* scale = workspace.take<float>(static_cast<size_t>(args.tokens));
  LinearArgs gate;
  gate.weight = &layer.shared_gate;
  gate.x = args.hidden;
  gate.rows = args.tokens;
  gate.out = scale;
  // Exact: one row of weights; rounding its input would save nothing.
  linear(kernels, pool, Precision::Exact, gate,
         workspace.take<unsigned char>(linear_workspace_bytes(args.tokens, layer.config.hidden)));
  kernels.sigmoid(scale, args.tokens, scale);
  return scale;
}

void combine_and_residual(const MoeLayer& layer, const MoeLayer::Forward& args, const Routing& routing,
                          const Dispatch& plan, const Grouped& grouped, const float* shared_factor,
                          const KernelTable& kernels, ThreadPool& pool) {
  const int64_t h = layer.config.hidden;
  const auto at = [&](float* base, int64_t token) { return base != nullptr ? base + token * h : nullptr; };
  const auto combine_token = [&](int64_t token, int) {
    const float* rows[kMaxSlots];
    float weights[kMaxSlots];
    for (int slot = 0; slot < routing.slots; ++slot) {
      const int32_t position = plan.position[token * routing.slots + slot];
      rows[slot] = position < 0 ? nullptr : grouped.expert_out + position * h;
      weights[slot] = layer.config.router.weight_on_input ? 1.0f : routing.weights[token * routing.slots + slot];
    }
    const ResidualState state{at(args.state.m, token), at(args.state.m_im, token), at(args.state.p, token),
                              at(args.state.v, token)};
    kernels.combine(rows, weights, routing.slots,
                    grouped.shared_out != nullptr ? grouped.shared_out + token * h : nullptr,
                    shared_factor != nullptr ? shared_factor[token] : 1.0f,
                    args.residual != nullptr ? args.residual + token * h : nullptr, &args.step, &state, h,
                    args.out + token * h, at(args.update_out, token));
  };
  if (args.tokens * h <= kInlineCombine) {
    for (int64_t token = 0; token < args.tokens; ++token) combine_token(token, 0);
  } else {
    pool.parallel_for(args.tokens, combine_token);
  }
}

}  // namespace

Status MoeLayer::validate() const {
  const int64_t e = static_cast<int64_t>(experts.size());
  if (config.hidden <= 0)
    return error(Code::InvalidArgument, "hidden must be positive, got %lld", static_cast<long long>(config.hidden));
  if (config.router.experts != e) {
    return error(Code::ShapeMismatch, "router has %lld experts but %lld were given",
                 static_cast<long long>(config.router.experts), static_cast<long long>(e));
  }
  if (config.activations == Activations::Int8 && config.precision == Precision::Exact) {
    return error(Code::InvalidSpec, "activations \"int8\" are a rounding of precision \"fast\", got \"exact\"");
  }
  SMOE_RETURN_IF_ERROR(smoe::validate(config.router));
  SMOE_RETURN_IF_ERROR(validate_activation(config.activation, config.glu, "expert"));
  if (config.router.k > kMaxSlots) {
    return error(Code::InvalidSpec, "router k must be at most %d, got %d", kMaxSlots, config.router.k);
  }
  if (router_weight.rows != e || router_weight.cols != config.hidden) {
    return error(Code::ShapeMismatch, "router weight must be [%lld, %lld], got [%lld, %lld]", static_cast<long long>(e),
                 static_cast<long long>(config.hidden), static_cast<long long>(router_weight.rows),
                 static_cast<long long>(router_weight.cols));
  }
  const auto bias_fits = [&](const std::vector<float>& bias) {
    return bias.empty() || static_cast<int64_t>(bias.size()) == e;
  };
  if (!bias_fits(router_bias))
    return error(Code::ShapeMismatch, "router bias must be [%lld], got [%zu]", static_cast<long long>(e),
                 router_bias.size());
  if (!bias_fits(model_bias))
    return error(Code::ShapeMismatch, "model bias must be [%lld], got [%zu]", static_cast<long long>(e),
                 model_bias.size());
  if (config.router.has_bias != !model_bias.empty()) {
    return error(Code::InvalidSpec, "the router spec %s a model bias but %s was given",
                 config.router.has_bias ? "has" : "has no", model_bias.empty() ? "none" : "one");
  }
  for (int64_t index = 0; index < e; ++index) {
    const std::string name = "expert " + std::to_string(index);
    SMOE_RETURN_IF_ERROR(validate_expert(experts[static_cast<size_t>(index)], config.hidden, config.glu, name.c_str()));
  }
  if (shared.size() > 1) return error(Code::InvalidSpec, "at most one shared expert, got %zu", shared.size());
  if (!shared.empty()) SMOE_RETURN_IF_ERROR(validate_expert(shared[0], config.hidden, config.glu, "shared expert"));
  if (!shared_gate.empty() && (shared.empty() || shared_gate.rows != 1 || shared_gate.cols != config.hidden)) {
    return error(Code::ShapeMismatch, "shared gate must be [1, %lld] beside a shared expert, got [%lld, %lld]",
                 static_cast<long long>(config.hidden), static_cast<long long>(shared_gate.rows),
                 static_cast<long long>(shared_gate.cols));
  }
  return Status();
}

Status MoeLayer::validate_on_cpu() const {
  if (config.activations != Activations::Bf16 || config.precision == Precision::Exact) return Status();
  const auto check = [&](const ExpertWeights& expert, const std::string& name) {
    for (const PackedMatrix* matrix : {&expert.up, &expert.down}) {
      if (row_layout(*matrix, config.precision).kind != RowKind::Int8) continue;
      return error(Code::InvalidSpec,
                   "activations \"bf16\" are of CUDA devices: on the CPU %s is %s, which is multiplied by int8 in "
                   "precision \"fast\" and by f32 in \"exact\"",
                   name.c_str(), weight_format_name(matrix->format));
    }
    return Status();
  };
  for (size_t i = 0; i < experts.size(); ++i) SMOE_RETURN_IF_ERROR(check(experts[i], "expert " + std::to_string(i)));
  return shared.empty() ? Status() : check(shared[0], "the shared expert");
}

size_t MoeLayer::bytes() const {
  size_t total = router_weight.bytes() + shared_gate.bytes() + (router_bias.size() + model_bias.size()) * sizeof(float);
  for (const ExpertWeights& expert : experts) total += expert.bytes();
  for (const ExpertWeights& expert : shared) total += expert.bytes();
  return total;
}

size_t MoeLayer::workspace_bytes(int64_t tokens, int slots, int threads) const {
  const size_t t = static_cast<size_t>(tokens), pairs = t * static_cast<size_t>(slots);
  const size_t h = static_cast<size_t>(config.hidden), e = experts.size();
  size_t total = route_workspace_bytes(tokens, config.hidden, static_cast<int64_t>(e), slots);
  total += Workspace::bytes_for<int32_t>(e + 1) + 3 * Workspace::bytes_for<int32_t>(pairs);    // dispatch
  total += Workspace::bytes_for<ExpertGroup>(e + 1) + Workspace::bytes_for<float>(pairs * h);  // groups, results
  total += Workspace::bytes_for<const float*>(pairs) + Workspace::bytes_for<float>(pairs);     // inputs, scales
  total += expert_items_bytes(static_cast<int64_t>(e + 1), threads);
  // All pairs at the widest expert, and the rounding of each group's three arrays.
  size_t widest = 0;
  for (const ExpertWeights& expert : experts) widest = std::max(widest, expert_group_bytes(expert, 1));
  total += pairs * widest + (e + 1) * 192;
  if (!shared.empty()) {
    total += expert_group_bytes(shared[0], tokens) + Workspace::bytes_for<float>(t * h) +
             Workspace::bytes_for<const float*>(t);
    total += Workspace::bytes_for<float>(t) +
             Workspace::bytes_for<unsigned char>(linear_workspace_bytes(tokens, config.hidden));
  }
  return total;
}

int64_t MoeLayer::chunk_tokens(int slots) const {
  const size_t per_token = (workspace_bytes(1024, slots, 1) - workspace_bytes(0, slots, 1)) / 1024 + 1;
  return std::clamp(static_cast<int64_t>(kWorkspaceBudget / per_token), kMinChunk, kMaxChunk);
}

Status MoeLayer::forward(const Forward& args, const KernelTable& kernels, ThreadPool& pool,
                         Workspace& workspace) const {
  const int slots = args.routing != nullptr ? args.routing->slots : config.router.k;
  if (slots > kMaxSlots)
    return error(Code::InvalidArgument, "routing has %d slots, at most %d are supported", slots, kMaxSlots);
  const int64_t h = config.hidden, e = config.router.experts, chunk = chunk_tokens(slots);
  for (int64_t first = 0; first < args.tokens; first += chunk) {
    Forward part = args;
    part.tokens = std::min(chunk, args.tokens - first);
    Routing given, kept;
    const auto rows_from = [&](const Routing& whole) {
      return Routing{part.tokens, whole.slots, whole.ids + first * whole.slots, whole.weights + first * whole.slots,
                     whole.count != nullptr ? whole.count + first : nullptr};
    };
    if (args.routing != nullptr) part.routing = &(given = rows_from(*args.routing));
    if (args.routing_out != nullptr) part.routing_out = &(kept = rows_from(*args.routing_out));
    const auto shift = [&](auto*& pointer, int64_t width) {
      if (pointer != nullptr) pointer += first * width;
    };
    shift(part.hidden, h);
    shift(part.residual, h);
    shift(part.out, h);
    shift(part.state.m, h);
    shift(part.state.m_im, h);
    shift(part.state.p, h);
    shift(part.state.v, h);
    shift(part.router_logits, e);
    shift(part.update_out, h);
    workspace.reset();
    SMOE_RETURN_IF_ERROR(workspace.reserve(workspace_bytes(part.tokens, slots, pool.max_size())));
    SMOE_RETURN_IF_ERROR(forward_chunk(part, kernels, pool, workspace));
  }
  return Status();
}

// The main path: hidden -> route -> dispatch -> experts -> combine -> residual.
Status MoeLayer::forward_chunk(const Forward& args, const KernelTable& kernels, ThreadPool& pool,
                               Workspace& workspace) const {
  const Routing routing = route_stage(*this, args, kernels, pool, workspace);
  const Dispatch plan = dispatch_stage(routing, config.router.experts, args.expert_counts, workspace);
  const Grouped grouped = group_rows(*this, args, routing, plan, workspace);

  ExpertFfnArgs ffn;
  ffn.groups = grouped.groups;
  ffn.count = grouped.count;
  ffn.same_input = args.tokens == 1 && !config.router.weight_on_input;
  ffn.activation = config.activation;
  ffn.precision = config.precision;
  ffn.cancel = args.cancel;
  SMOE_RETURN_IF_ERROR(expert_ffn(kernels, pool, ffn, workspace));

  const float* shared_factor = shared_scale(*this, args, kernels, pool, workspace);
  combine_and_residual(*this, args, routing, plan, grouped, shared_factor, kernels, pool);
  return Status();
}

}  // namespace smoe
