// K1, K2 and K3 one after the other on the emulated device, as a layer would launch them, against the double reference
// of the CPU backend's MoE layer, given the ids and weights that K1 chose.
#include "expert_layer.h"
#include "kernels/experts/down_combine.cuh"
#include "kernels/route/route_dispatch.cuh"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

template <class T>
using Array = emu::Buffer<T>;

PackedMatrix matrix(const bf16* values, int64_t rows, int64_t cols) {
  PackedMatrix packed;
  REQUIRE(pack({values, Dtype::BF16, rows, cols}, WeightFormat::BF16, &packed).ok());
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
Outcome run_chain(const ExpertInputs& in, const std::vector<bf16>& router, const RouterConfig& config, const Run& mode,
                  uint64_t seed) {
  emu::Device device;
  device.options = options_of(mode, seed);
  const size_t e = in.size(in.c.experts), k = in.size(config.k), h = in.size(in.c.hidden), i = in.size(in.c.width);
  const int splits = route_splits(in.c.experts, in.c.hidden);
  std::vector<bf16> w13, w2;
  for (size_t x = 0; x < e; ++x) {
    pack_gate_up(in.gate.data() + x * i * h, in.up.data() + x * i * h, in.c.width, in.c.hidden, &w13);
    pack_down(in.down.data() + x * i * h, in.c.hidden, in.c.width, &w2);
  }
  auto wr = Array<bf16>::constant(device, router, "router");
  auto gate_up_weights = Array<U32x4>::constant(device, as_atoms(w13), "gate and up");
  auto down_weights = Array<U32x4>::constant(device, as_atoms(w2), "down");
  Array<bf16> x(device, in.x, "x"), rows(device, 64 * k * i, "h");
  Array<int32_t> num_tokens(device, std::vector<int32_t>{in.c.tokens}, "num_tokens");
  Array<float> partials(device, in.size(splits) * 64 * e, "partials"), weights(device, 64 * k, "weights");
  Array<uint32_t> tickets(device, std::vector<uint32_t>(9, 0), "tickets");
  Array<int32_t> ids(device, 64 * k, "ids"), count(device, 64, "count"), offset(device, e + 1, "offset");
  Array<int32_t> active(device, e, "active"), active_count(device, 1, "active_count");
  Array<uint64_t> mask(device, e, "mask");
  Array<float> row_weight(device, 64 * k, "row weights"), residual(device, random_floats(64 * h, 77), "residual");
  const DispatchBits plan{mask.data(), offset.data(), active.data(), active_count.data(), nullptr, row_weight.data()};

  RouteDispatchArgs<bf16, bf16> route{};
  route.x = x.data();
  route.w = wr.data();
  route.num_tokens = num_tokens.data();
  route.hidden = in.c.hidden;
  route.splits = splits;
  route.config = config;
  route.partials = partials.data();
  route.tickets = tickets.data();
  route.ids = ids.data();
  route.weights = weights.data();
  route.count = count.data();
  route.plan = plan;
  GateUpArgs up{};
  up.weights = gate_up_weights.data();
  up.x = x.data();
  up.h = rows.data();
  up.hidden = in.c.hidden;
  up.width = in.c.width;
  up.activation = Activation::Silu;
  up.plan = plan;
  DownArgs down{};
  down.weights = down_weights.data();
  down.h = rows.data();
  down.hidden = in.c.hidden;
  down.width = in.c.width;
  down.num_tokens = num_tokens.data();
  down.max_tokens = 64;
  down.residual = residual.data();
  down.step.kind = ResidualKind::Add;
  down.out = residual.data();
  down.plan = plan;
  launch(&device, {route_blocks(in.c.experts, splits), kRouteThreads, route_shared_bytes(in.c.experts), true},
         &route_dispatch<bf16, bf16>, route);
  launch(&device, {6, kExpertThreads, gate_up_shared_bytes(8), true}, &gate_up<8>, up);
  launch(&device, {row_blocks(in.c.hidden), kExpertThreads, down_shared_bytes(8), true}, &down_combine<8>, down);
  REQUIRE_MESSAGE(device.report().ok(), device.report().text());
  return {residual.download(), weights.download(), ids.download()};
}

}  // namespace

TEST_CASE("route, gate and up, down and combine: three launches make the layer") {
  for (const int tokens : {0, 1, 5, 16, 41}) {
    CAPTURE(tokens);
    const ExpertInputs in(ExpertCase{tokens, 12, 3, 72, 40, 300u + static_cast<unsigned>(tokens)});
    RouterConfig config;
    config.experts = 12;
    config.k = 3;
    config.norm_p = 1;
    const auto router = random_bf16(12 * 72, 9, 0.2f);
    Outcome first;
    uint64_t seed = 1;
    for (const Run& mode : all_runs()) {
      const Outcome got = run_chain(in, router, config, mode, seed++);
      if (first.out.empty()) first = got;
      REQUIRE(std::memcmp(first.out.data(), got.out.data(), got.out.size() * sizeof(float)) == 0);
    }
    const MoeLayer layer = cpu_layer(in, config);
    std::vector<float> hidden;
    for (const bf16 value : in.x) hidden.push_back(to_float(value));
    std::vector<int32_t> ids(first.ids.begin(), first.ids.begin() + tokens * 3);
    std::vector<float> weights(first.weights.begin(), first.weights.begin() + tokens * 3);
    std::vector<double> magnitude;
    const auto expected = reference::moe(layer, hidden, ids, weights, 3, true, &magnitude);
    const auto residual = random_floats(64 * 72, 77);
    for (size_t i = 0; i < first.out.size(); ++i) {
      if (i >= expected.size()) {
        REQUIRE(first.out[i] == 0);
        continue;
      }
      // f32 sums of 72 and 40 terms; a hidden unit near a tie may round to the other bf16, 2^-8 of its own share. All
      // such units together stay below 2^-8 of the magnitude.
      const double tolerance = (std::ldexp(1.0, -8) + 256 * std::ldexp(1.0, -24)) * magnitude[i] +
                               std::ldexp(std::fabs(residual[i]) + std::fabs(expected[i]), -22);
      REQUIRE(close(first.out[i], residual[i] + expected[i], tolerance));
    }
    for (int t = 0; t < tokens; ++t) {
      for (int j = 1; j < 3; ++j) CHECK(ids[static_cast<size_t>(t * 3 + j)] != ids[static_cast<size_t>(t * 3)]);
    }
  }
}
