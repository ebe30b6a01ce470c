// K3 with int8 activations. The outputs beyond the sums are finish_columns(), which down_combine_test.cc is about.
#include "int8_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Outputs {
  std::vector<float> out, update;
};

// padding: rows past the tokens.
Outputs run_down(const ExpertInputs& in, const std::vector<float>& h, const Run& mode, uint64_t seed, int padding = 0,
                 bool full = false) {
  Gpu gpu(mode, seed);
  const size_t rows = in.size(in.c.tokens + padding), all = rows * in.size(in.c.hidden);
  auto weights = down_matrices(gpu, in);
  auto bias = gpu.constant(in.down_bias, "down bias");
  const Int8Inputs inputs(gpu, h, in.c.width, in.down_packed, true,
                          [&](int64_t row) { return in.expert_of(static_cast<int>(row)); });
  auto tokens = gpu.array(std::vector<int32_t>{in.c.tokens}, "num_tokens");
  auto shared = gpu.array(random_floats(all, in.c.seed + 31), "shared"),
       scale = gpu.array(random_floats(rows, in.c.seed + 32), "shared scale"),
       residual = gpu.array(random_floats(all, in.c.seed + 33), "residual");
  auto out = gpu.array<float>(all, "out"), update = gpu.array<float>(all, "update");
  PlanBuffers plan(gpu, in);
  DownCombineInt8Args args;
  args.map.weights = weights.table.data();
  args.map.bias = in.c.biases ? bias.data() : nullptr;
  args.map.hidden = in.c.hidden;
  args.map.width = in.c.width;
  args.map.experts = in.c.experts;
  args.map.weight_on_input = in.c.weight_on_input;
  args.map.num_tokens = tokens.data();
  args.map.max_tokens = in.c.tokens + padding;
  args.map.slots = seed % 2 == 0 ? in.c.slots : 0;  // experts of many tokens then come in parts
  args.map.out = out.data();
  args.map.update_out = update.data();
  if (full) {
    args.map.shared = shared.data();
    args.map.shared_scale = scale.data();
    args.map.residual = residual.data();
    args.map.step.kind = ResidualKind::Add;
  }
  args.map.plan = plan.bits();
  args.h = inputs.operand.rows[0];
  REQUIRE(launch_down_combine_int8(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(out.unwritten_bytes() == 0);
  return {out.download(), update.download()};
}

std::vector<float> random_h(const ExpertInputs& in) {
  return random_floats(in.size(in.pairs()) * in.size(in.c.width), in.c.seed + 30);
}

void check(const ExpertCase& c, bool full = false, bool every_run = false) {
  CAPTURE(c.tokens);
  CAPTURE(c.hidden);
  CAPTURE(c.width);
  CAPTURE(c.seed);
  const ExpertInputs in(c);
  const auto h = random_h(in);
  const int padding = full ? 3 : 0;
  const auto runs = all_runs();
  Outputs first;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!every_run && i != 0 && i != 5) continue;
    const Outputs got = run_down(in, h, runs[i], i + 1, padding, full);
    if (i == 0) first = got;
    REQUIRE(same_bits(first.out, got.out));
  }
  const size_t rows = in.size(c.tokens + padding), all = rows * in.size(c.hidden);
  const auto shared = random_floats(all, c.seed + 31), scale = random_floats(rows, c.seed + 32),
             residual = random_floats(all, c.seed + 33);
  std::vector<QuantizedRow> quantized;
  for (int row = 0; row < in.pairs(); ++row) {
    quantized.push_back(quantize_row(h.data() + in.size(row) * in.size(c.width), c.width,
                                     group_of(*in.down_packed[in.size(in.expert_of(row))])));
  }
  for (int t = 0; t < c.tokens + padding; ++t) {
    for (int column = 0; column < c.hidden; ++column) {
      const size_t at = in.size(t) * in.size(c.hidden) + in.size(column);
      if (t >= c.tokens) {
        REQUIRE(first.out[at] == 0);
        continue;
      }
      // Experts ascending, as the kernel takes them.
      double y = 0, terms = 0;
      float chain = 0;
      int groups = 1;
      for (int e = 0; e < c.experts; ++e) {
        for (int row = in.offset[in.size(e)]; row < in.offset[in.size(e + 1)]; ++row) {
          if (in.token[in.size(row)] != t) continue;
          const Int8Dot dot = int8_dot(*in.down_packed[in.size(e)], column, quantized[in.size(row)]);
          const float bias = c.biases ? in.down_bias[in.size(e) * in.size(c.hidden) + in.size(column)] : 0;
          const float weight = c.weight_on_input ? 1 : in.row_weight(row);
          y += weight * (dot.exact + bias);
          terms += std::fabs(weight) * (dot.terms + std::fabs(bias));
          chain = std::fmaf(weight, c.biases ? dot.value + bias : dot.value, chain);
          groups = std::max(groups, dot.groups);
        }
      }
      if (groups == 1 && !full) {
        REQUIRE(first.update[at] == chain);  // integers of a whole row are exact: the CPU's bits
        continue;
      }
      if (full) {
        const double add = double{scale[in.size(t)]} * shared[at];
        y += add;
        terms += std::fabs(add);
      }
      // As in gate_up_int8_test.cc, and an addition for each expert.
      const double bound = (groups + 12 + c.slots) * std::ldexp(1.0, -24) * terms + 1e-37;
      REQUIRE(close(first.update[at], y, bound));
      const double want = full ? double{residual[at]} + first.update[at] : first.update[at];
      REQUIRE(close(first.out[at], want, std::ldexp(std::fabs(want), -23)));
    }
  }
}

}  // namespace

TEST_CASE("down_combine_int8: every format in one layer, groups, zero points, sizes") {
  unsigned seed = 500;
  for (const int width : {128, 320, 384}) {
    ExpertCase c{width == 320 ? 9 : 5, 12, 5, width == 128 ? 40 : 48, width, seed++};
    c.down_codes = integer_codes(width);
    c.biases = width != 384;
    c.weight_on_input = width == 384;
    check(c, true, width == 320);
  }
  for (const int tokens : {0, 1, 8, 17, 40, 64}) {
    ExpertCase c{tokens, 3, 2, 24, 192, seed++};
    c.down_codes = {{WeightFormat::W4, 64, true}, {WeightFormat::T2}, {WeightFormat::W8, 32, true}};
    check(c, tokens % 2 == 0);
  }
}

TEST_CASE("down_combine_int8: slices of K keep groups whole") {
  ExpertCase c{5, 4, 2, 40, 2304, 545};
  c.down_codes = {{WeightFormat::W4, 96, true}, {WeightFormat::W8, 576}, {WeightFormat::T2}, {WeightFormat::W4, 128}};
  check(c);
  c.tokens = 12;
  check(c);
}

TEST_CASE("down_combine_int8: groups of a whole row have the CPU's bits") {
  ExpertCase c{9, 5, 2, 40, 1096, 530};
  c.down_codes = {{WeightFormat::T2},
                  {WeightFormat::W8},
                  {WeightFormat::W4, 0, true},
                  {WeightFormat::W8, 0, true},
                  {WeightFormat::W3}};
  c.biases = true;
  check(c);
  for (CodeSpec& spec : c.down_codes) spec.extreme = true;
  check(c);
}

TEST_CASE("down_combine_int8: one expert takes all, every expert takes every token") {
  ExpertCase skewed{33, 4, 1, 32, 64, 540};
  skewed.down_codes.assign(4, {WeightFormat::W4, 32, true});
  skewed.same_experts = 1;
  check(skewed);
  ExpertCase all{17, 6, 6, 32, 96, 541};
  all.down_codes.assign(6, {WeightFormat::W8, 96});
  all.down_codes[2] = {WeightFormat::T2};
  check(all);
}

TEST_CASE("down_combine_int8: a token's bits do not depend on its batch, and NaN stays in its row") {
  ExpertCase c{24, 4, 2, 40, 128, 550};
  c.down_codes = {{WeightFormat::W4, 32, true}, {WeightFormat::T2}, {WeightFormat::W8, 64}, {WeightFormat::W4}};
  const ExpertInputs all(c);
  auto h = random_h(all);
  const auto whole = run_down(all, h, nth_run(0), 1);
  CHECK(same_bits(whole.update, [&] {
    auto more = run_down(all, h, nth_run(4), 2, 40).update;
    more.resize(whole.update.size());
    return more;
  }()));
  for (const int token : {0, 11, 23}) {
    ExpertInputs one = all;
    one.c.tokens = 1;
    one.ids.assign(all.ids.begin() + token * 2, all.ids.begin() + (token + 1) * 2);
    one.weights.assign(all.weights.begin() + token * 2, all.weights.begin() + (token + 1) * 2);
    Dispatch plan{0, one.offset.data(), one.token.data(), one.slot.data(), one.position.data()};
    dispatch(one.ids.data(), 1, 2, 4, &plan);
    std::vector<float> own(one.size(one.pairs()) * 128);
    for (int j = 0; j < 2; ++j) {
      const int there = all.position[all.size(token * 2 + j)], here = one.position[all.size(j)];
      if (there >= 0) std::copy_n(h.begin() + there * 128, 128, own.begin() + here * 128);
    }
    const auto alone = run_down(one, own, nth_run(0), 1);
    CHECK(std::memcmp(alone.update.data(), whole.update.data() + token * 40, 40 * sizeof(float)) == 0);
  }
  const int odd = all.pairs() / 2;
  h[all.size(odd) * 128 + 5] = INFINITY;
  const auto got = run_down(all, h, nth_run(0), 1);
  for (int t = 0; t < 24; ++t) {
    for (size_t i = 0; i < 40; ++i) {
      const size_t at = all.size(t) * 40 + i;
      if (t == all.token[all.size(odd)]) {
        CHECK(std::isnan(got.update[at]));
      } else {
        CHECK(bit_cast<uint32_t>(got.update[at]) == bit_cast<uint32_t>(whole.update[at]));
      }
    }
  }
}

TEST_CASE("down_combine_int8: nothing to do") {
  Gpu gpu;
  CHECK(launch_down_combine_int8(gpu.stream(), DownCombineInt8Args()) == 0);
}
