// K2 with int8 activations: exact integers, f32 as on the CPU but for the order in which warps' sums meet.
#include "int8_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Launch {
  int blocks = 4, max_tokens = 64;
  bool dispatched = false;
};

std::vector<float> run_gate_up(const ExpertInputs& in, const Run& mode, uint64_t seed, const Launch& how) {
  Gpu gpu(mode, seed);
  auto weights = gate_up_matrices(gpu, in);
  auto gate_bias = gpu.constant(in.gate_bias, "gate bias"), up_bias = gpu.constant(in.up_bias, "up bias");
  std::vector<float> x = in.x;
  if (how.dispatched) {
    x.clear();
    for (int row = 0; row < in.pairs(); ++row) {
      const auto first = in.x.begin() + static_cast<std::ptrdiff_t>(in.token[in.size(row)]) * in.c.hidden;
      x.insert(x.end(), first, first + in.c.hidden);
    }
  }
  const Int8Inputs inputs(gpu, x, in.c.hidden, in.up_packed, how.dispatched,
                          [&](int64_t row) { return in.expert_of(static_cast<int>(row)); });
  auto h = gpu.array<float>(in.size(in.pairs()) * in.size(in.c.width), "h");
  PlanBuffers plan(gpu, in);
  GateUpInt8Args args;
  args.map.weights = weights.table.data();
  args.map.glu = in.c.glu;
  args.map.gate_bias = in.c.biases && in.c.glu ? gate_bias.data() : nullptr;
  args.map.up_bias = in.c.biases ? up_bias.data() : nullptr;
  args.map.hidden = in.c.hidden;
  args.map.width = in.c.width;
  args.map.experts = in.c.experts;
  args.map.activation = in.c.activation;
  args.map.max_tokens = how.max_tokens;
  args.map.slots = seed % 2 == 0 ? in.c.slots : 0;  // experts of many tokens then come in parts
  args.map.blocks = how.blocks;
  args.map.plan = plan.bits();
  args.x = inputs.operand;
  args.h = h.data();
  REQUIRE(launch_gate_up_int8(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(h.unwritten_bytes() == 0);
  return h.download();
}

const std::vector<Run> kTwo = {{emu::Schedule::LazyRoundRobin, emu::BlockOrder::Ascending},
                               {emu::Schedule::EagerGreedy, emu::BlockOrder::Random}};

void check(const ExpertCase& c, const std::vector<Run>& runs = kTwo) {
  CAPTURE(c.tokens);
  CAPTURE(c.hidden);
  CAPTURE(c.width);
  CAPTURE(c.seed);
  const ExpertInputs in(c);
  std::vector<float> first;
  uint64_t seed = 1;
  for (const Run& mode : runs) {
    // Neither the blocks nor where rows lie must show in the bits.
    const auto h = run_gate_up(in, mode, seed, {seed % 2 == 0 ? 3 : 5, c.tokens, seed % 2 == 0});
    ++seed;
    if (first.empty()) first = h;
    REQUIRE(same_bits(h, first));
  }
  for (int row = 0; row < in.pairs(); ++row) {
    const size_t e = in.size(in.expert_of(row));
    const PackedMatrix &gate = *in.gate_packed[e], &up = *in.up_packed[e];
    const QuantizedRow x =
        quantize_row(in.x.data() + in.size(in.token[in.size(row)]) * in.size(c.hidden), c.hidden, group_of(up));
    for (int i = 0; i < c.width; ++i) {
      const float got = first[in.size(row) * in.size(c.width) + in.size(i)];
      const size_t bias = e * in.size(c.width) + in.size(i);
      const Int8Dot u = int8_dot(up, i, x);
      if (!c.glu && !c.biases && c.activation.kind == Activation::Identity && u.groups == 1) {
        REQUIRE(got == u.value);  // one rounding chain: the CPU's bits
        continue;
      }
      // A group's value is rounded at most three times, then enters groups + 8 sums; a bias, one.
      const auto error = [&](const Int8Dot& dot, double b) {
        return (dot.groups + 12) * std::ldexp(1.0, -24) * (dot.terms + std::fabs(b));
      };
      const double ub = c.biases ? in.up_bias[bias] : 0, gb = c.biases ? in.gate_bias[bias] : 0;
      double want, bound;
      if (c.glu) {
        const Int8Dot g = int8_dot(gate, i, x);
        want = reference::glu(c.activation, g.exact + gb, u.exact + ub);
        // As in gate_up_test.cc: |act'| <= 1.2, |act(g)| <= |g|, and roundings of the activation within 2^-20.
        bound = 1.2 * error(g, gb) * (std::fabs(u.exact + ub) + std::fabs(c.activation.beta)) +
                1.2 * (g.terms + std::fabs(gb)) * (error(u, ub) + std::ldexp(u.terms + std::fabs(ub) + 1, -19));
      } else {
        want = reference::activate(c.activation.kind, u.exact + ub);
        bound = 1.2 * error(u, ub) + std::ldexp(u.terms + std::fabs(ub), -19);
      }
      REQUIRE(close(got, want, bound + 1e-30));
    }
  }
}

}  // namespace

TEST_CASE("gate_up_int8: tokens, shapes, groups, formats, zero points, in one layer") {
  unsigned seed = 400;
  for (const int hidden : {128, 320, 384}) {
    for (const bool glu : {true, false}) {
      ExpertCase c{hidden == 320 ? 9 : 5, 12, 5, hidden, glu ? 24 : 32, seed++};
      c.gate_up_codes = integer_codes(hidden);
      c.glu = glu;
      c.biases = true;
      check(c, glu && hidden == 320 ? all_runs() : kTwo);
    }
  }
  for (const int tokens : {0, 1, 8, 17, 40, 64}) {
    ExpertCase c{tokens, 3, 2, 192, 8, seed++};
    c.gate_up_codes = {{WeightFormat::W4, 64, true}, {WeightFormat::T2}, {WeightFormat::W8, 32, true}};
    check(c);
  }
}

TEST_CASE("gate_up_int8: slices of K keep groups whole") {
  ExpertCase c{5, 4, 2, 2304, 16, 445};
  c.gate_up_codes = {
      {WeightFormat::W4, 96, true}, {WeightFormat::W8, 576}, {WeightFormat::T2}, {WeightFormat::W4, 128}};
  check(c);
  c.tokens = 12;
  check(c);
}

TEST_CASE("gate_up_int8: groups of a whole row have the CPU's bits") {
  for (const int hidden : {40, 1184}) {
    ExpertCase c{9, 5, 2, hidden, 32, 430, Activation::Identity};
    c.glu = false;
    c.gate_up_codes = {{WeightFormat::T2},
                       {WeightFormat::W8},
                       {WeightFormat::W4, 0, true},
                       {WeightFormat::W8, 0, true},
                       {WeightFormat::W3}};
    check(c);
    for (CodeSpec& spec : c.gate_up_codes) spec.extreme = true;
    check(c);
  }
}

TEST_CASE("gate_up_int8: groups wider than an atom, and of no power of two") {
  ExpertCase c{5, 4, 2, 1152, 16, 440};
  c.gate_up_codes = {
      {WeightFormat::W4, 96, true}, {WeightFormat::W8, 576}, {WeightFormat::W2, 96, true}, {WeightFormat::W4, 384}};
  check(c);
}

TEST_CASE("gate_up_int8: one expert takes all, each takes all, clamped activation") {
  ExpertCase skewed{33, 4, 1, 64, 16, 450};
  skewed.gate_up_codes.assign(4, {WeightFormat::W4, 32, true});
  skewed.same_experts = 1;
  check(skewed);
  ExpertCase all{9, 4, 4, 64, 16, 451};
  all.gate_up_codes.assign(4, {WeightFormat::W8, 32});
  all.activation.alpha = 1.702f;
  all.activation.limit = 0.7f;
  all.activation.beta = 1;
  all.biases = true;
  check(all);
}

TEST_CASE("gate_up_int8: a token's bits do not depend on its batch, and NaN stays in its row") {
  ExpertCase c{24, 4, 2, 128, 16, 460};
  c.gate_up_codes = {{WeightFormat::W4, 32, true}, {WeightFormat::T2}, {WeightFormat::W8, 64}, {WeightFormat::W4}};
  const ExpertInputs all(c);
  const auto h = run_gate_up(all, nth_run(0), 1, {4, 24});
  CHECK(same_bits(h, run_gate_up(all, nth_run(3), 1, {7, 64})));
  for (const int token : {0, 11, 23}) {
    ExpertInputs one = all;
    one.c.tokens = 1;
    one.x.assign(all.x.begin() + token * 128, all.x.begin() + (token + 1) * 128);
    one.ids.assign(all.ids.begin() + token * 2, all.ids.begin() + (token + 1) * 2);
    Dispatch plan{0, one.offset.data(), one.token.data(), one.slot.data(), one.position.data()};
    dispatch(one.ids.data(), 1, 2, 4, &plan);
    const auto alone = run_gate_up(one, nth_run(0), 1, {4, 1});
    for (int j = 0; j < 2; ++j) {
      const int there = all.position[all.size(token * 2 + j)], here = one.position[all.size(j)];
      if (there < 0) continue;
      CHECK(std::memcmp(&alone[all.size(here * 16)], &h[all.size(there * 16)], 16 * sizeof(float)) == 0);
    }
  }
  ExpertInputs odd = all;
  odd.x[7 * 128 + 100] = NAN;
  const auto got = run_gate_up(odd, nth_run(0), 1, {4, 24});
  for (int row = 0; row < all.pairs(); ++row) {
    for (size_t i = 0; i < 16; ++i) {
      const size_t at = all.size(row) * 16 + i;
      if (all.token[all.size(row)] == 7) {
        CHECK(std::isnan(got[at]));
      } else {
        CHECK(bit_cast<uint32_t>(got[at]) == bit_cast<uint32_t>(h[at]));
      }
    }
  }
}

TEST_CASE("gate_up_int8: nothing to do") {
  Gpu gpu;
  CHECK(launch_gate_up_int8(gpu.stream(), GateUpInt8Args()) == 0);
}
