// P3, P4 with int8 activations: sums have the CPU's bits.
#include "int8_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int k, features;
  std::vector<int32_t> counts;                           // rows of each expert
  std::vector<CodeSpec> codes;                           // of each expert
  bool glu = false, extras = false, dispatched = false;  // extras: gather and biases
  bool nan = false;                                      // in the third source row
};

using Matrices = std::vector<std::shared_ptr<const PackedMatrix>>;

Matrices matrices_of(const Case& c, unsigned seed) {
  Matrices all;
  for (size_t e = 0; e < c.codes.size(); ++e) {
    all.push_back(std::make_shared<PackedMatrix>(
        coded_matrix(c.codes[e], c.features, c.k, seed + static_cast<unsigned>(e)).packed));
  }
  return all;
}

void check(const Case& c, unsigned seed) {
  CAPTURE(c.k);
  CAPTURE(c.features);
  CAPTURE(seed);
  const size_t experts = c.counts.size(), f = static_cast<size_t>(c.features), k = static_cast<size_t>(c.k);
  std::vector<int32_t> offset{0};
  for (const int n : c.counts) offset.push_back(offset.back() + n);
  const size_t p = static_cast<size_t>(offset.back());
  const auto expert_of = [&](int64_t row) {
    size_t e = 0;
    while (offset[e + 1] <= row) ++e;
    return e;
  };
  std::vector<int32_t> gather;
  for (size_t i = 0; i < p; ++i) gather.push_back(static_cast<int32_t>(c.extras ? (i * 7 + 3) % p : i));
  auto x = random_floats(p * k, seed);
  if (c.nan) x[2 * k + 1] = NAN;
  const auto bias = random_floats(experts * f, seed + 1), gate_bias = random_floats(experts * f, seed + 2);
  const Matrices up = matrices_of(c, seed + 10), gate = matrices_of(c, seed + 50);
  std::vector<float> first;
  uint64_t run_seed = 1;
  for (const Run& run : all_runs()) {
    Gpu gpu(run, run_seed++);
    if (run_seed % 4 == 0) gpu.set_shared_limit(99 * 1024);  // as sm_86, sm_89 and sm_120 have: no large tile
    std::vector<emu::Buffer<U32x4>> atoms;
    std::vector<emu::Buffer<unsigned char>> planes;
    std::vector<AtomMatrix> table;
    for (size_t e = 0; e < experts; ++e) {
      const CodeAtoms coded = c.glu ? CodeAtoms(*gate[e], *up[e]) : CodeAtoms(*up[e]);
      atoms.push_back(gpu.constant(coded.atoms, "codes"));
      planes.push_back(gpu.constant(coded.scales, "scales"));
      const unsigned char* const scales = planes.back().data();
      planes.push_back(gpu.constant(coded.zeros, "zeros"));
      table.push_back(coded.view(atoms.back().data(), scales, planes.back().data()));
    }
    auto weights = gpu.constant(table, "matrices");
    auto d_offset = gpu.array(offset, "offset"), d_gather = gpu.array(gather, "gather");
    auto d_bias = gpu.constant(bias, "bias"), d_gate_bias = gpu.constant(gate_bias, "gate bias");
    auto out = gpu.array<float>(p * f, "out");
    const Int8Inputs inputs(gpu, x, c.k, up, c.dispatched, expert_of);
    GroupedGemmInt8Args args;
    args.map.weights = weights.data();
    args.map.experts = static_cast<int>(experts);
    args.map.k = c.k;
    args.map.features = c.features;
    args.map.glu = c.glu;
    args.map.offset = d_offset.data();
    args.map.max_rows = 1000;
    args.map.max_groups = run_seed % 2 == 0 ? 1 : 1000;  // both tiles
    args.map.out_f32 = out.data();
    args.map.blocks = static_cast<int>(run_seed % 3 + 1);
    if (c.extras) {
      args.map.gather = d_gather.data();
      args.map.bias = d_bias.data();
      args.map.gate_bias = d_gate_bias.data();
    }
    args.x = inputs.operand;
    REQUIRE(launch_grouped_gemm_int8(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    REQUIRE(out.unwritten_bytes() == 0);
    const auto got = out.download();
    if (first.empty()) first = got;
    REQUIRE((got.empty() || std::memcmp(got.data(), first.data(), got.size() * 4) == 0));
  }
  for (size_t r = 0; r < p; ++r) {
    const size_t e = expert_of(static_cast<int64_t>(r));
    const QuantizedRow row = quantize_row(x.data() + static_cast<size_t>(gather[r]) * k, c.k, group_of(*up[e]));
    for (size_t j = 0; j < f; ++j) {
      const float got = first[r * f + j];
      if (c.nan && gather[r] == 2) {
        REQUIRE(std::isnan(got));
        continue;
      }
      const Int8Dot u = int8_dot(*up[e], static_cast<int64_t>(j), row);
      if (!c.glu) {
        REQUIRE(got == (c.extras ? u.value + bias[e * f + j] : u.value));
        continue;
      }
      const Int8Dot g = int8_dot(*gate[e], static_cast<int64_t>(j), row);
      const float low = c.extras ? g.value + gate_bias[e * f + j] : g.value,
                  high = c.extras ? u.value + bias[e * f + j] : u.value;
      const double want = reference::glu(Activation::Silu, low, high);
      REQUIRE(close(got, want, std::ldexp(std::fabs(want), -19) + 1e-30));  // of the activation alone
    }
  }
}

}  // namespace

TEST_CASE("grouped_gemm_int8: every format, groups of every kind, experts without rows") {
  unsigned seed = 600;
  for (const int k : {128, 320, 384}) {
    Case c{k, k == 128 ? 40 : 24, {3, 0, 20, 1, 9, 0, 5, 2, 1, 4, 3, 7}, integer_codes(k)};
    c.extras = k != 320;
    check(c, seed++);
    c.glu = true;
    c.dispatched = k == 320;
    check(c, seed++);
  }
}

TEST_CASE("grouped_gemm_int8: whole rows, narrow matrices, groups wider than a stage and across stages") {
  Case narrow{40,
              20,
              {9, 3, 1, 4},
              {{WeightFormat::T2}, {WeightFormat::W8}, {WeightFormat::W4, 0, true}, {WeightFormat::W8, 0, true}}};
  check(narrow, 620);
  for (CodeSpec& spec : narrow.codes) spec.extreme = true;
  narrow.k = 1184;
  check(narrow, 621);
  check(
      {1152,
       16,
       {5, 17, 2, 3},
       {{WeightFormat::W4, 96, true}, {WeightFormat::W8, 576}, {WeightFormat::W2, 96, true}, {WeightFormat::W4, 384}}},
      622);
}

TEST_CASE("grouped_gemm_int8: tiles of rows, more row blocks than a tile has, NaN stays in its row") {
  check({96, 144, {70, 0, 33}, {{WeightFormat::W4, 32, true}, {WeightFormat::T2}, {WeightFormat::W8, 96}}}, 630);
  Case c{192, 24, {5, 40}, {{WeightFormat::W4, 64, true}, {WeightFormat::T2}}};
  c.nan = true;
  check(c, 631);
  c.extras = true;
  check(c, 632);
}

TEST_CASE("grouped_gemm_int8: more groups than their ring holds, whole tiles and halves of both widths") {
  check({1056, 40, {130, 20, 40}, {{WeightFormat::W4, 32, true}, {WeightFormat::W8, 32}, {WeightFormat::W2, 32, true}}},
        635);
  check({992, 24, {5, 65}, {{WeightFormat::W8, 32, true}, {WeightFormat::W4, 32}}}, 636);
}

TEST_CASE("grouped_gemm_int8: nothing to do") {
  Gpu gpu;
  CHECK(launch_grouped_gemm_int8(gpu.stream(), GroupedGemmInt8Args()) == 0);
  check({64, 16, {0, 0}, {{WeightFormat::W4, 32}, {WeightFormat::T2}}}, 640);
}
