// Packing, and K2 against double.
#include "expert_layer.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Launch {
  int blocks = 4;
  int max_tokens = 64;
  bool general = false;             // the kernel for parts although bf16_only holds
  emu::Traffic* traffic = nullptr;  // to be counted
};

std::vector<bf16> run_gate_up(const ExpertInputs& in, const Run& mode, uint64_t seed, const Launch& how) {
  Gpu gpu(mode, seed);
  gpu.count_traffic(how.traffic != nullptr);
  auto weights = gate_up_matrices(gpu, in);
  auto gate_bias = gpu.constant(in.gate_bias, "gate bias"), up_bias = gpu.constant(in.up_bias, "up bias");
  auto x = gpu.array(planes_of(in.x, in.c.x_parts), "x");
  const int64_t rows = int64_t{in.pairs()} * in.c.width;
  auto h = gpu.array<bf16>(static_cast<size_t>(rows * in.c.x_parts), "h");
  PlanBuffers plan(gpu, in);
  GateUpArgs args;
  args.weights = weights.table.data();
  args.glu = in.c.glu;
  args.gate_bias = in.c.biases && in.c.glu ? gate_bias.data() : nullptr;
  args.up_bias = in.c.biases ? up_bias.data() : nullptr;
  args.x = {x.data(), int64_t{in.c.tokens} * in.c.hidden, in.c.x_parts};
  args.h = {h.data(), rows, in.c.x_parts};
  args.hidden = in.c.hidden;
  args.width = in.c.width;
  args.experts = in.c.experts;
  args.activation = in.c.activation;
  args.weight_on_input = in.c.weight_on_input;
  args.bf16_only = in.bf16_only() && !how.general;
  auto read = gpu.constant(planes_read(in.c.gate_up_codes, in.c.experts), "planes read");
  args.nested = {has_planes(in.c.gate_up_codes), read.data()};
  args.max_tokens = how.max_tokens;
  args.slots = seed % 2 == 0 ? in.c.slots : 0;  // experts of many tokens then come in parts
  args.blocks = how.blocks;
  args.plan = plan.bits();
  REQUIRE(launch_gate_up(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(h.unwritten_bytes() == 0);
  if (how.traffic != nullptr) gpu.read_traffic(how.traffic);
  return h.download();
}

void check(const ExpertCase& c, const std::vector<Run>& runs = all_runs()) {
  CAPTURE(c.tokens);
  CAPTURE(c.hidden);
  CAPTURE(c.width);
  CAPTURE(c.seed);
  const ExpertInputs in(c);
  std::vector<bf16> first;
  uint64_t seed = 1;
  for (const Run& mode : runs) {
    // Neither the number of blocks nor, in bf16, the kernel must show in the bits; but where K is long, the kernels for
    // codes cut it into fewer slices.
    const bool general = seed % 2 == 0 && c.hidden < 512;
    const auto h = run_gate_up(in, mode, seed, {seed % 2 == 0 ? 3 : 5, c.tokens, general});
    ++seed;
    if (first.empty()) first = h;
    REQUIRE(same_bits(h, first));
  }
  std::vector<double> expected, magnitude;
  // f32 sums of `hidden` terms in 8 warps, a few roundings of the activation (expf, tanhf, erff within 2^-20). Three
  // parts: six products per term, of which the small ones change the rounding of the sum and hardly its size; the
  // roundings of a warp's up to 6 * hidden / 8 additions are of either sign and stay below 2e-6 with what is left out,
  // 2 * 2^-24. A single term: that and fewer than six roundings. Then one rounding to bf16, or none.
  const bool exact = in.exact();
  const double sum_bound = c.sparse ? std::ldexp(1.0, -22)
                           : exact  ? 1e-6
                                    : (c.hidden + 32) * std::ldexp(1.0, -24) + std::ldexp(1.0, -20);
  const size_t plane = in.size(in.pairs() * c.width);
  for (int row = 0; row < in.pairs(); ++row) {
    in.reference_h(row, &expected, &magnitude);
    for (int i = 0; i < c.width; ++i) {
      const size_t at = in.size(row * c.width + i);
      double got = 0;
      for (int p = c.x_parts - 1; p >= 0; --p) got += to_float(first[in.size(p) * plane + at]);
      const double rounding = std::ldexp(std::fabs(expected[in.size(i)]), c.x_parts == 1 ? -8 : c.sparse ? -24 : -20);
      REQUIRE(close(got, expected[in.size(i)], rounding + 2 * sum_bound * magnitude[in.size(i)]));
    }
  }
}

const std::vector<Run> kTwo = {{emu::Schedule::LazyRoundRobin, emu::BlockOrder::Ascending},
                               {emu::Schedule::EagerGreedy, emu::BlockOrder::Random}};

}  // namespace

TEST_CASE("packing is a bijection, and zero outside the matrix") {
  const int width = 12, hidden = 40;
  std::vector<bf16> gate, up, down, packed;
  for (int i = 0; i < width * hidden; ++i) {
    gate.push_back({static_cast<uint16_t>(1 + i)});
    up.push_back({static_cast<uint16_t>(1001 + i)});
    down.push_back({static_cast<uint16_t>(1 + i)});
  }
  pack_gate_up(gate.data(), up.data(), width, hidden, &packed);
  REQUIRE(packed.size() == 2 * 3 * 256);
  std::vector<int> seen(4000, 0);
  for (size_t i = 0; i < packed.size(); ++i) {
    // block, atom, lane, element: the address that a lane's 16-byte load has
    const int block = static_cast<int>(i / 768), atom = static_cast<int>(i / 256 % 3),
              lane = static_cast<int>(i / 8 % 32);
    const Element at = a16_element(lane, static_cast<int>(i % 8) / 2, static_cast<int>(i % 2));
    const int feature = block * 8 + at.row % 8, k = atom * 16 + at.col;
    const bool inside = feature < width && k < hidden;
    const int expected = inside ? (at.row < 8 ? 1 : 1001) + feature * hidden + k : 0;
    CHECK(packed[i].bits == expected);
    ++seen[packed[i].bits];
  }
  for (int i = 0; i < width * hidden; ++i) CHECK((seen[1 + i] == 1 && seen[1001 + i] == 1));
  packed.clear();
  pack_down(down.data(), hidden, width, &packed);
  REQUIRE(packed.size() == 3 * 1 * 256);
  std::fill(seen.begin(), seen.end(), 0);
  for (const bf16 value : packed) ++seen[value.bits];
  for (int i = 0; i < width * hidden; ++i) CHECK(seen[1 + i] == 1);
  CHECK(seen[0] == 3 * 256 - width * hidden);
}

TEST_CASE("packing of parts: their sum is the value, each an ordinary packed matrix") {
  const int rows = 20, cols = 24;
  const auto values = random_floats(rows * cols, 3);
  const auto value = [&](int64_t row, int64_t col) { return values[static_cast<size_t>(row * cols + col)]; };
  std::vector<bf16> three;
  pack_rows(rows, cols, 3, value, &three);
  const size_t step = static_cast<size_t>(packed_words(row_blocks(rows), cols)) * 8;
  REQUIRE(three.size() == 3 * step);
  for (int part = 2; part >= 0; --part) {
    std::vector<bf16> expected;
    const auto m = planes_of(values, 3);
    pack_down(m.data() + static_cast<size_t>(part) * values.size(), rows, cols, &expected);
    CHECK(std::memcmp(expected.data(), three.data() + static_cast<size_t>(part) * step, step * sizeof(bf16)) == 0);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    float left = values[i];
    for (int part = 0; part < 3; ++part) left -= to_float(bf16_part(values[i], part));
    CHECK(left == 0);
  }
}

TEST_CASE("gate_up: tokens and shapes") {
  check({0, 6, 2, 64, 24, 1});
  check({1, 6, 2, 64, 24, 2});
  check({7, 6, 2, 42, 24, 7});
  check({8, 6, 3, 136, 24, 3});
  check({9, 6, 3, 72, 16, 4});
  check({17, 5, 2, 264, 8, 5});
  check({64, 5, 2, 64, 16, 6});
}

TEST_CASE("gate_up: activations, biases, weight on input, one expert with everything") {
  unsigned seed = 20;
  for (const Activation act : {Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu,
                               Activation::Relu2, Activation::Identity}) {
    for (const bool glu : {true, false}) {
      ExpertCase c{5, 4, 2, 64, 16, seed++, act};
      c.biases = true;
      c.glu = glu;
      c.weight_on_input = act == Activation::Silu;
      check(c, kTwo);
    }
  }
  ExpertCase skewed{33, 4, 1, 64, 16, 40};
  skewed.same_experts = 1;
  check(skewed);
}

TEST_CASE("gate_up: clamped SwiGLU of gpt-oss") {
  ExpertCase c{9, 4, 2, 64, 16, 70};
  c.activation.alpha = 1.702f;
  c.activation.limit = 0.7f;  // so that both sides are met often
  c.activation.beta = 1;
  c.biases = true;
  check(c);
}

TEST_CASE("gate_up: plain experts") {
  for (const int tokens : {1, 9, 33}) {
    ExpertCase c{tokens, 4, 2, 40, tokens == 9 ? 40 : 48, 80u + static_cast<unsigned>(tokens), Activation::GeluErf};
    c.glu = false;
    check(c, tokens == 9 ? all_runs() : kTwo);
  }
}

TEST_CASE("gate_up: parts") {
  unsigned seed = 90;
  for (const int x_parts : {1, 3}) {
    for (const int w_parts : {1, 3}) {
      for (const bool glu : {true, false}) {
        ExpertCase c{glu ? 9 : 5, 4, 2, 264, 16, seed++};
        c.x_parts = x_parts;
        c.w_parts = w_parts;
        c.glu = glu;
        c.biases = true;
        check(c, glu && w_parts == 3 && x_parts == 3 ? all_runs() : kTwo);
      }
    }
  }
  ExpertCase single{33, 3, 1, 40, 16, 66, Activation::Identity};
  single.x_parts = single.w_parts = 3;
  single.glu = false;
  single.sparse = true;
  check(single, kTwo);
  ExpertCase wide{64, 3, 1, 72, 8, seed};
  wide.x_parts = wide.w_parts = 3;
  wide.weight_on_input = true;
  check(wide, kTwo);
}

TEST_CASE("gate_up: codes, every format in one layer, groups and rows, whole atoms and not") {
  unsigned seed = 300;
  for (const int x_parts : {1, 3}) {
    for (const int hidden : {320, 384}) {
      for (const bool glu : {true, false}) {
        ExpertCase c{hidden == 320 ? 9 : 5, 13, 5, hidden, glu ? 24 : 32, seed++};
        c.gate_up_codes = some_codes(hidden);
        c.x_parts = x_parts;
        c.w_parts = x_parts;  // expert 12 of the list is plain
        c.glu = glu;
        c.biases = true;
        c.weight_on_input = glu;
        check(c, glu && hidden == 320 ? all_runs() : kTwo);
      }
    }
  }
}

TEST_CASE("gate_up: codes, many tokens, extreme codes, narrow matrices") {
  unsigned seed = 340;
  for (const int x_parts : {1, 3}) {
    ExpertCase many{40, 3, 2, 192, 8, seed++};
    many.gate_up_codes = {{WeightFormat::W4, 64, true}, {WeightFormat::T2}, {WeightFormat::F8, 64}};
    many.x_parts = x_parts;
    check(many, kTwo);
    many.tokens = 17;
    many.gate_up_codes = {{WeightFormat::W8, 32, true}, {WeightFormat::W4C, 32}, {WeightFormat::W2, 64, true}};
    check(many, kTwo);
  }
  // 40 columns: less than an atom, or not whole ones; extreme codes meet sums of one sign.
  ExpertCase narrow{3, 6, 2, 40, 40, seed++};
  for (const WeightFormat format :
       {WeightFormat::W8, WeightFormat::W4, WeightFormat::T2, WeightFormat::F8, WeightFormat::W4C, WeightFormat::W3}) {
    CodeSpec spec{format, 0, format == WeightFormat::W4};
    spec.extreme = true;
    narrow.gate_up_codes.push_back(spec);
  }
  check(narrow);
  narrow.x_parts = 3;
  check(narrow, kTwo);
}

TEST_CASE("gate_up: residual planes, some or all of them, beside other formats") {
  unsigned seed = 400;
  for (const int x_parts : {1, 3}) {
    for (const int hidden : {320, 384}) {
      for (const bool glu : {true, false}) {
        ExpertCase c{hidden == 320 ? 9 : 5, 9, 5, hidden, glu ? 24 : 32, seed++};
        c.gate_up_codes = nested_codes(hidden);
        c.x_parts = c.w_parts = x_parts;
        c.glu = glu;
        c.biases = c.weight_on_input = glu;
        check(c, glu && hidden == 320 ? all_runs() : kTwo);
      }
    }
    ExpertCase many{40, 3, 2, 192, 8, seed++};
    many.x_parts = x_parts;
    const auto check_width = [&](int hidden) {
      many.hidden = hidden;
      many.gate_up_codes = nested_codes(hidden);
      many.gate_up_codes.resize(3);
      check(many, kTwo);
    };
    check_width(192);
    many.tokens = 1;
    check_width(2112);  // in slices, of which those of a plane hold other columns than those of the base
    check_width(40);    // less than an atom
  }
}

TEST_CASE("gate_up: slices of K, in every number that there is") {
  unsigned seed = 360;
  for (const int hidden : {520, 1064, 2056}) check({3, 4, 2, hidden, 24, seed++}, kTwo);
  ExpertCase codes{3, 4, 2, 2112, 16, seed++};
  codes.gate_up_codes = {{WeightFormat::W4, 32, true}, {WeightFormat::T2}, {WeightFormat::W8, 64}, {}};
  check(codes, kTwo);
  codes.x_parts = codes.w_parts = 3;
  codes.glu = false;
  check(codes, kTwo);
  codes.x_parts = codes.w_parts = 1;
  codes.tokens = 19;
  check(codes, kTwo);
}

TEST_CASE("gate_up: nothing to do") {
  Gpu gpu;
  GateUpArgs args;
  CHECK(launch_gate_up(gpu.stream(), args) == 0);
}

TEST_CASE("gate_up: a token's bits do not depend on its batch, nor on the tile count") {
  for (const int parts : {1, 3}) {
    ExpertCase c{24, 4, 2, 136, 16, 50};
    c.x_parts = c.w_parts = parts;
    c.gate_up_codes = {{WeightFormat::W4, 0, true}, {}, {WeightFormat::F8}};
    const ExpertInputs all(c);
    const size_t plane = all.size(all.pairs() * 16);
    const auto h = run_gate_up(all, nth_run(0), 1, {4, 24});
    CHECK(same_bits(h, run_gate_up(all, nth_run(3), 1, {7, 64})));
    for (const int token : {0, 11, 23}) {
      ExpertInputs one = all;
      one.c.tokens = 1;
      one.x.assign(all.x.begin() + token * 136, all.x.begin() + (token + 1) * 136);
      one.ids.assign(all.ids.begin() + token * 2, all.ids.begin() + (token + 1) * 2);
      Dispatch plan{0, one.offset.data(), one.token.data(), one.slot.data(), one.position.data()};
      dispatch(one.ids.data(), 1, 2, 4, &plan);
      const size_t own = one.size(one.pairs() * 16);
      const auto alone = run_gate_up(one, nth_run(0), 1, {4, 1});
      for (int j = 0; j < 2; ++j) {
        const int there = all.position[all.size(token * 2 + j)], here = one.position[all.size(j)];
        if (there < 0) continue;
        for (size_t p = 0; p < all.size(parts); ++p) {
          CHECK(std::memcmp(&alone[p * own + all.size(here * 16)], &h[p * plane + all.size(there * 16)],
                            16 * sizeof(bf16)) == 0);
        }
      }
    }
  }
}

#ifndef SMOE_TEST_ON_GPU
TEST_CASE("gate_up: every atom is read as 16 whole sectors") {
  const ExpertInputs in(ExpertCase{3, 4, 2, 128, 16, 60});
  emu::Traffic traffic;
  run_gate_up(in, nth_run(0), 1, {2, 3, false, &traffic});
  uint64_t atoms = 0;
  for (const auto& [number, line] : traffic.lines()) {
    if (line.kind != emu::AccessKind::GlobalRead || line.bytes != 512 * line.instructions) continue;
    CHECK(line.sectors == 16 * line.instructions);
    atoms += line.instructions;
  }
  const int active = PlanBuffers::count(in);
  CHECK(atoms == static_cast<uint64_t>(active * 2 * 8));  // row blocks x atoms, each once
}
#endif
