// K1, K2 and K3 one after the other on the emulated device, as a layer would launch them, against the double reference
// of the CPU backend's MoE layer, given the ids and weights that K1 chose.
#include "expert_layer.h"
#include "kernels/route/route_dispatch.cuh"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

PackedMatrix matrix(const float* values, int64_t rows, int64_t cols) {
  PackedMatrix packed;
  REQUIRE(pack({values, Dtype::F32, rows, cols}, WeightFormat::F32, &packed).ok());
  return packed;
}

MoeLayer cpu_layer(const ExpertInputs& in, const RouterConfig& router) {
  MoeLayer layer;
  layer.config.hidden = in.c.hidden;
  layer.config.router = router;
  for (int e = 0; e < in.c.experts; ++e) {
    const size_t at = in.size(e) * in.size(in.c.width) * in.size(in.c.hidden);
    ExpertWeights expert;
    expert.gate = matrix(in.gate.data() + at, in.c.width, in.c.hidden);
    expert.up = matrix(in.up.data() + at, in.c.width, in.c.hidden);
    expert.down = matrix(in.down.data() + at, in.c.hidden, in.c.width);
    layer.experts.push_back(std::move(expert));
  }
  return layer;
}

struct Outcome {
  std::vector<float> out, weights;
  std::vector<int32_t> ids;
};

// All scratch is sized by the maximum of 64 tokens, as for a captured graph; num_tokens is read on the device.
Outcome run_chain(const ExpertInputs& in, const std::vector<float>& router, const RouterConfig& config, const Run& mode,
                  uint64_t seed) {
  Gpu gpu(mode, seed);
  const size_t e = in.size(in.c.experts), k = in.size(config.k), h = in.size(in.c.hidden), i = in.size(in.c.width);
  const int splits = route_splits(in.c.experts, in.c.hidden), parts = in.c.x_parts;
  auto w13 = gate_up_matrices(gpu, in), w2 = down_matrices(gpu, in);
  auto wr = gpu.constant(router, "router");
  auto x = gpu.array(in.x, "x");
  auto planes = gpu.array(planes_of(in.x, parts), "planes of x");
  auto rows = gpu.array<bf16>(64 * k * i * in.size(parts), "h");
  auto num_tokens = gpu.constant(std::vector<int32_t>{in.c.tokens}, "num_tokens");
  auto partials = gpu.array<float>(in.size(splits) * 64 * e, "partials"), weights = gpu.array<float>(64 * k, "weights");
  auto tickets = gpu.array(std::vector<uint32_t>(9, 0), "tickets");
  auto ids = gpu.array<int32_t>(64 * k, "ids"), count = gpu.array<int32_t>(64, "count");
  auto offset = gpu.array<int32_t>(e + 1, "offset");
  auto mask = gpu.array<uint64_t>(e, "mask");
  auto row_weight = gpu.array<float>(64 * k, "row weights");
  auto residual = gpu.array(random_floats(64 * h, 77), "residual");
  const DispatchBits plan{mask.data(), offset.data(), nullptr, row_weight.data(), nullptr};

  RouteDispatchArgs route;
  route.x = x.data();
  route.w = wr.data();
  route.w_f32 = true;
  route.num_tokens = num_tokens.data();
  route.hidden = in.c.hidden;
  route.splits = splits;
  route.config = config;
  route.partials = partials.data();
  route.tickets = tickets.data();
  route.routing = {ids.data(), weights.data(), count.data()};
  route.plan = plan;
  GateUpArgs up;
  up.weights = w13.table.data();
  up.x = {planes.data(), int64_t{in.c.tokens} * in.c.hidden, parts};
  up.h = {rows.data(), static_cast<int64_t>(64 * k * i), parts};
  up.hidden = in.c.hidden;
  up.width = in.c.width;
  up.experts = in.c.experts;
  up.activation = Activation::Silu;
  up.bf16_only = in.bf16_only();
  up.max_tokens = 64;
  up.blocks = 6;
  up.plan = plan;
  DownCombineArgs down;
  down.weights = w2.table.data();
  down.h = up.h;
  down.hidden = in.c.hidden;
  down.width = in.c.width;
  down.experts = in.c.experts;
  down.bf16_only = in.bf16_only();
  down.num_tokens = num_tokens.data();
  down.max_tokens = 64;
  down.residual = residual.data();
  down.step.kind = ResidualKind::Add;
  down.out = residual.data();
  down.plan = plan;
  REQUIRE(launch_route_dispatch(gpu.stream(), route) == 0);
  REQUIRE(launch_gate_up(gpu.stream(), up) == 0);
  REQUIRE(launch_down_combine(gpu.stream(), down) == 0);
  REQUIRE(gpu.fault() == "");
  return {residual.download(), weights.download(), ids.download()};
}

void check_chain(int tokens, int parts, const std::vector<Run>& runs) {
  CAPTURE(tokens);
  CAPTURE(parts);
  ExpertCase c{tokens, 12, 3, 72, 40, 300u + static_cast<unsigned>(tokens)};
  c.x_parts = c.w_parts = parts;
  const ExpertInputs in(c);
  RouterConfig config;
  config.experts = 12;
  config.k = 3;
  config.norm_p = 1;
  const auto router = random_floats(12 * 72, 9, 0.2f);
  Outcome first;
  uint64_t seed = 1;
  for (const Run& mode : runs) {
    const Outcome got = run_chain(in, router, config, mode, seed++);
    if (first.out.empty()) first = got;
    REQUIRE(std::memcmp(first.out.data(), got.out.data(), got.out.size() * sizeof(float)) == 0);
  }
  const MoeLayer layer = cpu_layer(in, config);
  std::vector<int32_t> ids(first.ids.begin(), first.ids.begin() + tokens * 3);
  std::vector<float> weights(first.weights.begin(), first.weights.begin() + tokens * 3);
  std::vector<double> magnitude;
  const auto expected = reference::moe(layer, in.x, ids, weights, 3, parts == 1, &magnitude);
  const auto residual = random_floats(64 * 72, 77);
  for (size_t i = 0; i < first.out.size(); ++i) {
    if (i >= expected.size()) {
      REQUIRE(first.out[i] == 0);
      continue;
    }
    // f32 sums of 72 and 40 terms. One part: a hidden unit near a tie may round to the other bf16, 2^-8 of its own
    // share; all such units together stay below 2^-8 of the magnitude. Three: 2e-6 for each of the two projections.
    const double relative = parts == 1 ? std::ldexp(1.0, -8) + 256 * std::ldexp(1.0, -24) : 4e-6;
    const double tolerance = relative * magnitude[i] + std::ldexp(std::fabs(residual[i]) + std::fabs(expected[i]), -22);
    REQUIRE(close(first.out[i], residual[i] + expected[i], tolerance));
  }
  for (int t = 0; t < tokens; ++t) {
    for (int j = 1; j < 3; ++j) CHECK(ids[static_cast<size_t>(t * 3 + j)] != ids[static_cast<size_t>(t * 3)]);
  }
}

}  // namespace

TEST_CASE("route, gate and up, down and combine: three launches make the layer") {
  for (const int tokens : {0, 1, 5, 16, 41}) check_chain(tokens, 1, all_runs());
}

TEST_CASE("route, gate and up, down and combine: exact") {
  check_chain(5, 3, all_runs());
  check_chain(41, 3, {nth_run(5)});
}
