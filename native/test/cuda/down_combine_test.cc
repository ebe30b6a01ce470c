// K3 against double, for every kind of residual step.
#include <algorithm>

#include "expert_layer.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Outcome {
  std::vector<float> out, update, m, m_im, p, v;
};

struct Step {
  ResidualStep step;
  bool shared = false, shared_scale = false, in_place = false;
  int padding = 0;  // rows past num_tokens
};

// bf16 values where h has one plane.
std::vector<float> random_h(const ExpertInputs& in) {
  auto h = random_floats(in.size(in.pairs() * in.c.width), in.c.seed + 30);
  if (in.c.sparse) in.keep_one(&h, in.c.width);
  return in.c.x_parts == 1 ? in.rounded(h) : h;
}

size_t rows_of(const ExpertInputs& in, const Step& s) { return in.size((in.c.tokens + s.padding) * in.c.hidden); }

// State of layers before; NaN where the step must not read it.
std::vector<float> state_values(const ExpertInputs& in, const Step& s, unsigned salt, bool first) {
  return first ? std::vector<float>(rows_of(in, s), NAN) : random_floats(rows_of(in, s), in.c.seed + salt);
}

Outcome run_down(const ExpertInputs& in, const Step& s, const std::vector<float>& h_rows, const Run& mode,
                 uint64_t seed, int more_tokens = 0, bool general = false) {
  Gpu gpu(mode, seed);
  const size_t all = rows_of(in, s);
  auto weights = down_matrices(gpu, in);
  auto bias = gpu.constant(in.down_bias, "down bias");
  auto h = gpu.array(planes_of(h_rows, in.c.x_parts), "h");
  auto tokens = gpu.array(std::vector<int32_t>{in.c.tokens}, "num_tokens");
  auto shared = gpu.array(random_floats(all, in.c.seed + 31), "shared");
  auto scale = gpu.array(random_floats(in.size(in.c.tokens + s.padding), in.c.seed + 32), "shared scale");
  auto residual = gpu.array(random_floats(all, in.c.seed + 33), "residual");
  auto m = gpu.array(state_values(in, s, 34, s.step.first), "m"),
       m_im = gpu.array(state_values(in, s, 35, s.step.first), "m_im");
  auto p = gpu.array(state_values(in, s, 36, s.step.first_adam), "p");
  auto squares = state_values(in, s, 37, s.step.first_adam);
  for (float& x : squares) x *= x;
  // Rows past the padding are only there to make the launch take more token tiles.
  const size_t rows = all + in.size(more_tokens * in.c.hidden);
  auto v = gpu.array(squares, "v"), out = gpu.array<float>(rows, "out"), update = gpu.array<float>(all, "update");
  PlanBuffers plan(gpu, in);
  DownCombineArgs args;
  args.weights = weights.table.data();
  args.bias = in.c.biases ? bias.data() : nullptr;
  args.h = {h.data(), static_cast<int64_t>(h_rows.size()), in.c.x_parts};
  args.hidden = in.c.hidden;
  args.width = in.c.width;
  args.experts = in.c.experts;
  args.weight_on_input = in.c.weight_on_input;
  args.bf16_only = in.bf16_only() && !general;
  auto read = gpu.constant(planes_read(in.c.down_codes, in.c.experts), "planes read");
  args.nested = {has_planes(in.c.down_codes), read.data()};
  args.num_tokens = tokens.data();
  args.max_tokens = in.c.tokens + s.padding + more_tokens;
  args.slots = seed % 2 == 0 ? in.c.slots : 0;  // experts of many tokens then come in parts
  args.shared = s.shared ? shared.data() : nullptr;
  args.shared_scale = s.shared_scale ? scale.data() : nullptr;
  args.residual = residual.data();
  args.step = s.step;
  args.state = {m.data(), m_im.data(), p.data(), v.data()};
  args.out = s.in_place ? residual.data() : out.data();
  args.update_out = update.data();
  args.plan = plan.bits();
  REQUIRE(launch_down_combine(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  if (!s.in_place) REQUIRE(out.unwritten_bytes() == 0);
  auto result = s.in_place ? residual.download() : out.download();
  result.resize(all);
  return {result, update.download(), m.download(), m_im.download(), p.download(), v.download()};
}

// The step of kernel_table.h in double.
double step_in_double(const Step& s, double x, double y, double m, double m_im, double p, double v) {
  const ResidualStep& r = s.step;
  switch (r.kind) {
    case ResidualKind::Update:
      return y;
    case ResidualKind::Add:
      return x + y;
    case ResidualKind::Linear:
      return x + r.s * ((r.first ? 0 : r.a * m) + r.b * y);
    case ResidualKind::Complex:
      return x + r.s * ((r.first ? 0 : r.a * m - r.a_im * m_im) + r.b * y);
    case ResidualKind::Adam: {
      const double p1 = (r.first_adam ? 0 : r.beta1 * p) + r.rest1 * y,
                   v1 = (r.first_adam ? 0 : r.beta2 * v) + r.rest2 * y * y;
      return (r.kappa == 1 ? 0 : (1 - r.kappa) * x) + r.s * r.gamma1 * p1 / std::sqrt(v1 + r.eps);
    }
  }
  return y;
}

void check_values(const ExpertInputs& in, const Step& s, const std::vector<float>& h, const Outcome& got) {
  const size_t all = rows_of(in, s);
  const auto shared = random_floats(all, in.c.seed + 31), x = random_floats(all, in.c.seed + 33);
  const auto scale = random_floats(in.size(in.c.tokens + s.padding), in.c.seed + 32);
  const auto m = state_values(in, s, 34, s.step.first), m_im = state_values(in, s, 35, s.step.first);
  const auto p = state_values(in, s, 36, s.step.first_adam), v = state_values(in, s, 37, s.step.first_adam);
  for (int t = 0; t < in.c.tokens + s.padding; ++t) {
    for (int c = 0; c < in.c.hidden; ++c) {
      const size_t at = in.size(t * in.c.hidden + c);
      if (t >= in.c.tokens) {
        REQUIRE(got.out[at] == 0);
        continue;
      }
      double y = 0, magnitude = 0;
      for (int j = 0; j < in.c.slots; ++j) {
        const int row = in.position[in.size(t * in.c.slots + j)];
        if (row < 0) continue;
        const int e = in.expert_of(row);
        const double weight = in.c.weight_on_input ? 1 : in.row_weight(row);
        double sum = in.c.biases ? in.down_bias[in.size(e * in.c.hidden + c)] : 0, sum_abs = std::fabs(sum);
        for (int k = 0; k < in.c.width; ++k) {
          const size_t w = (in.size(e) * in.size(in.c.hidden) + in.size(c)) * in.size(in.c.width) + in.size(k);
          const double product = static_cast<double>(in.down[w]) * h[in.size(row * in.c.width + k)];
          sum += product;
          sum_abs += std::fabs(in.down_size[w] * h[in.size(row * in.c.width + k)]);
        }
        y += weight * sum;
        magnitude += std::fabs(weight) * sum_abs;
      }
      if (s.shared) {
        const double add = (s.shared_scale ? scale[in.size(t)] : 1.0f) * shared[at];
        y += add;
        magnitude += std::fabs(add);
      }
      // f32 sums of `width` products per warp, then over experts and warps. Exact: as in gate_up_test.cc.
      const bool exact = in.exact();
      const double bound = in.c.sparse ? std::ldexp(1.0, -21)
                           : exact     ? 2e-6
                                       : (in.c.width + 2 * in.c.slots + 16) * std::ldexp(1.0, -24);
      const double error = bound * magnitude + 1e-37;
      REQUIRE(close(got.update[at], y, error));
      // The step is continuous in y: compare at the kernel's own y, with a few roundings of each term.
      const double u = got.update[at];
      const double expected = step_in_double(s, x[at], u, m[at], m_im[at], p[at], static_cast<double>(v[at]) * v[at]);
      const double terms =
          std::fabs(x[at]) + std::fabs(u) * (1 + std::fabs(s.step.b)) +
          (s.step.first ? 0 : std::fabs(m[at]) + std::fabs(m_im[at])) + std::fabs(expected) +
          (s.step.kind == ResidualKind::Adam && !s.step.first_adam ? std::fabs(p[at]) / (std::fabs(v[at]) + 1e-4) : 0);
      REQUIRE(close(got.out[at], expected, 16 * std::ldexp(1.0, -24) * terms + 1e-37));
    }
  }
}

void check(const ExpertCase& c, const Step& s, bool every_run) {
  CAPTURE(c.tokens);
  CAPTURE(c.hidden);
  CAPTURE(c.width);
  CAPTURE(static_cast<int>(s.step.kind));
  const ExpertInputs in(c);
  const auto h = random_h(in);
  const auto runs = all_runs();
  Outcome first;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!every_run && i != 0 && i != 5) continue;
    // The kernels for codes cut a long K into fewer slices than those for bf16.
    const Outcome got = run_down(in, s, h, runs[i], i + 1, 0, i % 2 == 1 && c.width < 512);
    if (i == 0) {
      first = got;
      check_values(in, s, h, first);
    }
    REQUIRE(same_bits(first.out, got.out));
    REQUIRE(same_bits(first.m, got.m));
  }
}

Step plain(ResidualKind kind) {
  Step s;
  s.step.kind = kind;
  return s;
}

}  // namespace

TEST_CASE("down_combine: tokens and shapes") {
  check({0, 6, 2, 40, 24, 1}, plain(ResidualKind::Update), true);
  check({1, 6, 2, 40, 24, 2}, plain(ResidualKind::Update), true);
  check({8, 6, 3, 64, 136, 3}, plain(ResidualKind::Add), true);
  check({9, 6, 3, 24, 64, 4}, plain(ResidualKind::Add), true);
  check({17, 5, 2, 32, 264, 5}, plain(ResidualKind::Add), false);
  check({64, 5, 2, 32, 40, 6}, plain(ResidualKind::Add), false);
  ExpertCase skewed{33, 4, 1, 32, 64, 40};
  skewed.same_experts = 1;
  check(skewed, plain(ResidualKind::Add), false);
}

TEST_CASE("down_combine: every residual step, first layer and later") {
  unsigned seed = 100;
  for (int kind = 0; kind <= 4; ++kind) {
    for (const bool first : {true, false}) {
      Step s = plain(static_cast<ResidualKind>(kind));
      s.step.a = 0.7f;
      s.step.a_im = 0.1f;
      s.step.b = 1.1f;
      s.step.s = -1;
      s.step.first = s.step.first_adam = first;
      s.step.kappa = first ? 1.0f : 0.25f;
      s.shared = first;
      s.shared_scale = seed % 4 == 0;
      s.in_place = !first;
      s.padding = 3;
      ExpertCase c{5, 4, 2, 40, 48, seed++};
      c.biases = first;
      c.weight_on_input = kind == 2;
      check(c, s, false);
    }
  }
}

TEST_CASE("down_combine: parts") {
  unsigned seed = 150;
  for (const int x_parts : {1, 3}) {
    for (const int w_parts : {1, 3}) {
      ExpertCase c{9, 4, 2, 40, 264, seed++};
      c.x_parts = x_parts;
      c.w_parts = w_parts;
      c.biases = true;
      check(c, plain(ResidualKind::Add), w_parts == 3 && x_parts == 3);
    }
  }
  ExpertCase single{33, 3, 1, 24, 40, 66};
  single.x_parts = single.w_parts = 3;
  single.sparse = true;
  check(single, plain(ResidualKind::Update), false);
  ExpertCase wide{64, 3, 1, 24, 72, seed};
  wide.x_parts = wide.w_parts = 3;
  check(wide, plain(ResidualKind::Update), false);
}

TEST_CASE("down_combine: residual planes, some or all of them, beside other formats") {
  unsigned seed = 400;
  for (const int x_parts : {1, 3}) {
    ExpertCase c{9, 9, 5, 40, 384, seed++};
    c.down_codes = nested_codes(384);
    c.x_parts = c.w_parts = x_parts;
    c.biases = true;
    check(c, plain(ResidualKind::Add), x_parts == 1);
    c.tokens = 1;
    c.slots = 9;
    c.width = 320;
    c.down_codes = nested_codes(320);
    check(c, plain(ResidualKind::Add), false);
    ExpertCase many{40, 3, 2, 24, 192, seed++};
    many.x_parts = x_parts;
    many.down_codes = nested_codes(192);
    many.down_codes.resize(3);
    check(many, plain(ResidualKind::Add), false);
    many.tokens = 3;
    many.width = 2112;
    many.down_codes = nested_codes(2112);
    many.down_codes.resize(3);
    check(many, plain(ResidualKind::Add), false);
  }
}

TEST_CASE("down_combine: codes, every format in one layer, groups and rows, whole atoms and not") {
  unsigned seed = 400;
  for (const int x_parts : {1, 3}) {
    for (const int width : {320, 384, 40}) {
      ExpertCase c{width == 320 ? 9 : 5, 13, 5, 40, width, seed++};
      c.down_codes = some_codes(width);
      c.x_parts = x_parts;
      c.w_parts = x_parts;
      c.biases = true;
      check(c, plain(ResidualKind::Add), width == 320);
    }
  }
  for (const int x_parts : {1, 3}) {
    ExpertCase many{40, 3, 2, 24, 192, seed++};
    many.down_codes = {{WeightFormat::W4, 64, true}, {WeightFormat::T2}, {WeightFormat::F8, 64}};
    many.x_parts = x_parts;
    check(many, plain(ResidualKind::Update), false);
  }
}

TEST_CASE("down_combine: slices of K, in every number that there is, and rounds of all lengths") {
  unsigned seed = 440;
  for (const int width : {520, 1064, 2056}) check({3, 7, 3, 24, width, seed++}, plain(ResidualKind::Add), false);
  for (const int experts : {9, 19}) check({7, experts, 5, 24, 72, seed++}, plain(ResidualKind::Add), false);
  ExpertCase codes{3, 4, 2, 24, 2112, seed++};
  codes.down_codes = {{WeightFormat::W4, 32, true}, {WeightFormat::T2}, {WeightFormat::W8, 64}, {}};
  check(codes, plain(ResidualKind::Add), false);
  codes.tokens = 19;
  check(codes, plain(ResidualKind::Add), false);
}

TEST_CASE("down_combine: nothing to do") {
  Gpu gpu;
  DownCombineArgs args;
  args.hidden = 40;
  CHECK(launch_down_combine(gpu.stream(), args) == 0);
}

TEST_CASE("down_combine: a token's bits do not depend on its batch, nor on the tile count") {
  const ExpertInputs all(ExpertCase{24, 4, 2, 32, 136, 200});
  const auto h = random_h(all);
  const Step s = plain(ResidualKind::Add);
  const Outcome four = run_down(all, s, h, nth_run(0), 1), eight = run_down(all, s, h, nth_run(4), 1, 40);
  CHECK(same_bits(four.out, eight.out));
  for (const int token : {0, 11, 23}) {
    ExpertInputs one = all;
    one.c.tokens = 1;
    one.ids.assign(all.ids.begin() + token * 2, all.ids.begin() + (token + 1) * 2);
    one.weights.assign(all.weights.begin() + token * 2, all.weights.begin() + (token + 1) * 2);
    Dispatch plan{0, one.offset.data(), one.token.data(), one.slot.data(), one.position.data()};
    dispatch(one.ids.data(), 1, 2, 4, &plan);
    std::vector<float> rows(static_cast<size_t>(one.pairs() * 136));
    for (int j = 0; j < 2; ++j) {
      const int there = all.position[static_cast<size_t>(token * 2 + j)], here = one.position[static_cast<size_t>(j)];
      if (there >= 0) std::copy_n(h.begin() + there * 136, 136, rows.begin() + here * 136);
    }
    const Outcome alone = run_down(one, s, rows, nth_run(3), 1);
    CHECK(std::memcmp(alone.update.data(), four.update.data() + token * 32, 32 * sizeof(float)) == 0);
  }
}
