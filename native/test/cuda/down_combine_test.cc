// K3 against double, for every kind of residual step.
#include "kernels/experts/down_combine.cuh"

#include <algorithm>

#include "expert_layer.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

template <class T>
using Array = emu::Buffer<T>;

struct Outcome {
  std::vector<float> out, update, m, m_im, p, v;
};

struct Step {
  ResidualStep step;
  bool shared = false, shared_scale = false, in_place = false;
  int padding = 0;  // rows past num_tokens
};

std::vector<bf16> random_h(const ExpertInputs& in) {
  return random_bf16(in.size(in.pairs() * in.c.width), in.c.seed + 30);
}

size_t rows_of(const ExpertInputs& in, const Step& s) { return in.size((in.c.tokens + s.padding) * in.c.hidden); }

// State of layers before; NaN where the step must not read it.
std::vector<float> state_values(const ExpertInputs& in, const Step& s, unsigned salt, bool first) {
  return first ? std::vector<float>(rows_of(in, s), NAN) : random_floats(rows_of(in, s), in.c.seed + salt);
}

template <int NT>
Outcome run_down(const ExpertInputs& in, const Step& s, const std::vector<bf16>& h_rows, const Run& mode,
                 uint64_t seed) {
  emu::Device device;
  device.options = options_of(mode, seed);
  std::vector<bf16> packed;
  for (int e = 0; e < in.c.experts; ++e) {
    pack_down(in.down.data() + in.size(e) * in.size(in.c.width) * in.size(in.c.hidden), in.c.hidden, in.c.width,
              &packed);
  }
  const size_t all = rows_of(in, s);
  auto weights = Array<U32x4>::constant(device, as_atoms(packed), "down");
  auto bias = Array<float>::constant(device, in.down_bias, "down bias");
  Array<bf16> h(device, h_rows, "h");
  Array<int32_t> tokens(device, std::vector<int32_t>{in.c.tokens}, "num_tokens");
  Array<float> shared(device, random_floats(all, in.c.seed + 31), "shared");
  Array<float> scale(device, random_floats(in.size(in.c.tokens + s.padding), in.c.seed + 32), "shared scale");
  Array<float> residual(device, random_floats(all, in.c.seed + 33), "residual");
  Array<float> m(device, state_values(in, s, 34, s.step.first), "m"),
      m_im(device, state_values(in, s, 35, s.step.first), "m_im");
  Array<float> p(device, state_values(in, s, 36, s.step.first_adam), "p");
  auto squares = state_values(in, s, 37, s.step.first_adam);
  for (float& x : squares) x *= x;
  Array<float> v(device, squares, "v"), out(device, all, "out"), update(device, all, "update");
  PlanBuffers plan(device, in);
  DownArgs args{};
  args.weights = weights.data();
  args.bias = in.c.biases ? bias.data() : nullptr;
  args.h = h.data();
  args.hidden = in.c.hidden;
  args.width = in.c.width;
  args.weight_on_input = in.c.weight_on_input;
  args.num_tokens = tokens.data();
  args.max_tokens = in.c.tokens + s.padding;
  args.shared = s.shared ? shared.data() : nullptr;
  args.shared_scale = s.shared_scale ? scale.data() : nullptr;
  args.residual = residual.data();
  args.step = s.step;
  args.state = {m.data(), m_im.data(), p.data(), v.data()};
  args.out = s.in_place ? residual.data() : out.data();
  args.update_out = update.data();
  args.plan = plan.bits();
  launch(&device, {row_blocks(in.c.hidden), kExpertThreads, down_shared_bytes(NT), true}, &down_combine<NT>, args);
  REQUIRE_MESSAGE(device.report().ok(), device.report().text());
  if (!s.in_place) REQUIRE(out.unwritten_bytes() == 0);
  return {s.in_place ? residual.download() : out.download(),
          update.download(),
          m.download(),
          m_im.download(),
          p.download(),
          v.download()};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
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

void check_values(const ExpertInputs& in, const Step& s, const std::vector<bf16>& h, const Outcome& got) {
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
          const double product = static_cast<double>(to_float(in.down[w])) * to_float(h[in.size(row * in.c.width + k)]);
          sum += product;
          sum_abs += std::fabs(product);
        }
        y += weight * sum;
        magnitude += std::fabs(weight) * sum_abs;
      }
      if (s.shared) {
        const double add = (s.shared_scale ? scale[in.size(t)] : 1.0f) * shared[at];
        y += add;
        magnitude += std::fabs(add);
      }
      // f32 sums of `width` products per warp, then over experts and warps.
      const double error = (in.c.width + 2 * in.c.slots + 16) * std::ldexp(1.0, -24) * magnitude + 1e-37;
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

template <int NT>
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
    const Outcome got = run_down<NT>(in, s, h, runs[i], i + 1);
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
  check<1>({0, 6, 2, 40, 24, 1}, plain(ResidualKind::Update), true);
  check<1>({1, 6, 2, 40, 24, 2}, plain(ResidualKind::Update), true);
  check<1>({8, 6, 3, 64, 136, 3}, plain(ResidualKind::Add), true);
  check<2>({9, 6, 3, 24, 64, 4}, plain(ResidualKind::Add), true);
  check<4>({17, 5, 2, 32, 264, 5}, plain(ResidualKind::Add), false);
  check<8>({64, 5, 2, 32, 40, 6}, plain(ResidualKind::Add), false);
  ExpertCase skewed{33, 4, 1, 32, 64, 40};
  skewed.same_experts = 1;
  check<8>(skewed, plain(ResidualKind::Add), false);
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
      check<1>(c, s, false);
    }
  }
}

TEST_CASE("down_combine: a token's bits do not depend on its batch, nor on the tile count") {
  const ExpertInputs all(ExpertCase{24, 4, 2, 32, 136, 200});
  const auto h = random_h(all);
  const Step s = plain(ResidualKind::Add);
  const Outcome four = run_down<4>(all, s, h, all_runs()[0], 1), eight = run_down<8>(all, s, h, all_runs()[4], 1);
  CHECK(same_bits(four.out, eight.out));
  for (const int token : {0, 11, 23}) {
    ExpertInputs one = all;
    one.c.tokens = 1;
    one.ids.assign(all.ids.begin() + token * 2, all.ids.begin() + (token + 1) * 2);
    one.weights.assign(all.weights.begin() + token * 2, all.weights.begin() + (token + 1) * 2);
    Dispatch plan{0, one.offset.data(), one.token.data(), one.slot.data(), one.position.data()};
    dispatch(one.ids.data(), 1, 2, 4, &plan);
    std::vector<bf16> rows(static_cast<size_t>(one.pairs() * 136));
    for (int j = 0; j < 2; ++j) {
      const int there = all.position[static_cast<size_t>(token * 2 + j)], here = one.position[static_cast<size_t>(j)];
      if (there >= 0) std::copy_n(h.begin() + there * 136, 136, rows.begin() + here * 136);
    }
    const Outcome alone = run_down<1>(one, s, rows, all_runs()[3], 1);
    CHECK(std::memcmp(alone.update.data(), four.update.data() + token * 32, 32 * sizeof(float)) == 0);
  }
}
