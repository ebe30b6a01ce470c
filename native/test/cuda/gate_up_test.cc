// Packing, and K2 against double.
#include "expert_layer.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;
template <class T>
using Array = emu::Buffer<T>;

namespace {

std::vector<U32x4> packed_gate_up(const ExpertInputs& in) {
  std::vector<bf16> packed;
  for (int e = 0; e < in.c.experts; ++e) {
    const size_t at = in.size(e) * in.size(in.c.width) * in.size(in.c.hidden);
    pack_gate_up(in.gate.data() + at, in.up.data() + at, in.c.width, in.c.hidden, &packed);
  }
  return as_atoms(packed);
}

template <int NT>
std::vector<bf16> run_gate_up(const ExpertInputs& in, const Run& mode, uint64_t seed, int blocks,
                              emu::Traffic* traffic = nullptr) {
  emu::Device device;
  device.options = options_of(mode, seed);
  device.options.traffic = traffic != nullptr;
  auto weights = Array<U32x4>::constant(device, packed_gate_up(in), "gate and up");
  auto gate_bias = Array<float>::constant(device, in.gate_bias, "gate bias");
  auto up_bias = Array<float>::constant(device, in.up_bias, "up bias");
  Array<bf16> x(device, in.x, "x"), h(device, in.size(in.pairs() * in.c.width), "h");
  PlanBuffers plan(device, in);
  GateUpArgs args{};
  args.weights = weights.data();
  args.gate_bias = in.c.biases ? gate_bias.data() : nullptr;
  args.up_bias = in.c.biases ? up_bias.data() : nullptr;
  args.x = x.data();
  args.h = h.data();
  args.hidden = in.c.hidden;
  args.width = in.c.width;
  args.activation = in.c.activation;
  args.weight_on_input = in.c.weight_on_input;
  args.plan = plan.bits();
  launch(&device, {blocks, kExpertThreads, gate_up_shared_bytes(NT), true}, &gate_up<NT>, args);
  REQUIRE_MESSAGE(device.report().ok(), device.report().text());
  REQUIRE(h.unwritten_bytes() == 0);
  if (traffic != nullptr) *traffic = device.engine().traffic();
  return h.download();
}

template <int NT>
void check(const ExpertCase& c) {
  CAPTURE(c.tokens);
  CAPTURE(c.hidden);
  CAPTURE(c.width);
  CAPTURE(c.seed);
  const ExpertInputs in(c);
  std::vector<bf16> first;
  uint64_t seed = 1;
  for (const Run& mode : all_runs()) {
    // The number of blocks must not show in the bits either.
    const auto h = run_gate_up<NT>(in, mode, seed, seed % 2 == 0 ? 3 : 5);
    ++seed;
    if (first.empty()) first = h;
    REQUIRE(h.size() == first.size());
    REQUIRE((h.empty() || std::memcmp(h.data(), first.data(), h.size() * sizeof(bf16)) == 0));
  }
  std::vector<double> expected, magnitude;
  // f32 sums of `hidden` terms in 8 warps, a few roundings of the activation (expf, tanhf, erff within 2^-20), one
  // rounding to bf16.
  const double sum_bound = (c.hidden + 32) * std::ldexp(1.0, -24) + std::ldexp(1.0, -20);
  for (int row = 0; row < in.pairs(); ++row) {
    in.reference_h(row, &expected, &magnitude);
    for (int i = 0; i < c.width; ++i) {
      const size_t at = in.size(row * c.width + i);
      const double tolerance = std::ldexp(std::fabs(expected[in.size(i)]), -8) + 2 * sum_bound * magnitude[in.size(i)];
      REQUIRE(close(to_float(first[at]), expected[in.size(i)], tolerance));
    }
  }
}

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

TEST_CASE("gate_up: tokens and shapes") {
  check<1>({0, 6, 2, 64, 24, 1});
  check<1>({1, 6, 2, 64, 24, 2});
  check<1>({8, 6, 3, 136, 24, 3});
  check<2>({9, 6, 3, 72, 16, 4});
  check<4>({17, 5, 2, 264, 8, 5});
  check<8>({64, 5, 2, 64, 16, 6});
}

TEST_CASE("gate_up: activations, biases, weight on input, one expert with everything") {
  unsigned seed = 20;
  for (const Activation act : {Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu,
                               Activation::Relu2, Activation::Identity}) {
    ExpertCase c{5, 4, 2, 64, 16, seed++, act};
    c.biases = true;
    c.weight_on_input = act == Activation::Silu;
    check<1>(c);
  }
  ExpertCase skewed{33, 4, 1, 64, 16, 40};
  skewed.same_experts = 1;
  check<8>(skewed);
}

TEST_CASE("gate_up: a token's bits do not depend on its batch, nor on the tile count") {
  const ExpertInputs all(ExpertCase{24, 4, 2, 136, 16, 50});
  const auto h = run_gate_up<4>(all, all_runs()[0], 1, 4);
  const auto wide = run_gate_up<8>(all, all_runs()[3], 1, 7);
  CHECK(std::memcmp(h.data(), wide.data(), h.size() * sizeof(bf16)) == 0);
  for (const int token : {0, 11, 23}) {
    ExpertInputs one = all;
    one.c.tokens = 1;
    one.x.assign(all.x.begin() + token * 136, all.x.begin() + (token + 1) * 136);
    one.ids.assign(all.ids.begin() + token * 2, all.ids.begin() + (token + 1) * 2);
    Dispatch plan{0, one.offset.data(), one.token.data(), one.slot.data(), one.position.data()};
    dispatch(one.ids.data(), 1, 2, 4, &plan);
    const auto alone = run_gate_up<1>(one, all_runs()[0], 1, 4);
    for (int j = 0; j < 2; ++j) {
      const int there = all.position[static_cast<size_t>(token * 2 + j)], here = one.position[static_cast<size_t>(j)];
      if (there >= 0) CHECK(std::memcmp(&alone[here * 16], &h[there * 16], 16 * sizeof(bf16)) == 0);
    }
  }
}

TEST_CASE("gate_up: every atom is read as 16 whole sectors") {
  const ExpertInputs in(ExpertCase{3, 4, 2, 128, 16, 60});
  emu::Traffic traffic;
  run_gate_up<1>(in, all_runs()[0], 1, 2, &traffic);
  uint64_t atoms = 0;
  for (const auto& [number, line] : traffic.lines()) {
    if (line.kind != emu::AccessKind::GlobalRead || line.bytes != 512 * line.instructions) continue;
    CHECK(line.sectors == 16 * line.instructions);
    atoms += line.instructions;
  }
  const int active = PlanBuffers::count(in);
  CHECK(atoms == static_cast<uint64_t>(active * 2 * 8));  // row blocks x atoms, each once
}
