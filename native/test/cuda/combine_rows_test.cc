// P5 against double, and to the bit against the additions in the order that the contract names.
#include <algorithm>

#include "gpu.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int tokens, hidden, slots, experts;
  bool f32 = false;     // y
  bool weights = true;  // else 1
  int shared = 0;       // 1: added, 2: scaled
  bool unused = true;   // some slots, and every slot of some tokens
  ResidualStep step = {};
  bool in_place = false;  // out is the residual
};

size_t size(int64_t n) { return static_cast<size_t>(n); }

struct Inputs {
  std::vector<int32_t> ids, position;
  std::vector<float> y, weights, shared, scale, residual, m, m_im, p, v;
  std::vector<bf16> y_bf16;

  explicit Inputs(const Case& c) {
    std::mt19937 random(static_cast<unsigned>(c.tokens * 7 + c.hidden));
    std::vector<int32_t> all;
    for (int e = 0; e < c.experts; ++e) all.push_back(e);
    int rows = 0;
    for (int t = 0; t < c.tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random);
      for (int j = 0; j < c.slots; ++j) {
        const bool used = !c.unused || (t % 5 != 2 && random() % 4 != 0);
        // An id out of range is unused too, and must not be taken for the first or last expert.
        ids.push_back(used ? all[size(j)] : j % 2 == 0 ? -1 : c.experts);
        position.push_back(used ? rows++ : -1);
      }
    }
    // Any permutation of rows will do.
    std::vector<int32_t> order;
    for (int r = 0; r < rows; ++r) order.push_back(r);
    std::shuffle(order.begin(), order.end(), random);
    for (int32_t& at : position) at = at < 0 ? -1 : order[size(at)];
    y = random_floats(size(rows) * size(c.hidden), 1);
    for (float& value : y) {
      y_bf16.push_back(to_bf16(value));
      if (!c.f32) value = to_float(y_bf16.back());
    }
    const size_t all_elements = size(c.tokens) * size(c.hidden);
    weights = random_floats(ids.size(), 2);
    shared = random_floats(all_elements, 3);
    scale = random_floats(size(c.tokens), 4);
    residual = random_floats(all_elements, 5);
    m = random_floats(all_elements, 6);
    m_im = random_floats(all_elements, 7);
    p = random_floats(all_elements, 8);
    v = random_floats(all_elements, 9);
    for (float& value : v) value *= value;
  }
};

// The update y of one element: in f32 in the order of the contract, in double, and the sum of magnitudes.
struct Update {
  float bits = 0;
  double value = 0, magnitude = 0;
  void add(float factor, float term) {
    bits = std::fma(factor, term, bits);
    value += static_cast<double>(factor) * term;
    magnitude += std::fabs(static_cast<double>(factor) * term);
  }
};

Update update_of(const Case& c, const Inputs& in, int t, int column) {
  std::vector<std::pair<int, size_t>> order;
  for (size_t i = size(t) * size(c.slots); i < size(t + 1) * size(c.slots); ++i) {
    if (in.position[i] >= 0) order.emplace_back(in.ids[i], i);
  }
  std::sort(order.begin(), order.end());
  Update sum;
  for (const auto& [id, i] : order) {
    sum.add(c.weights ? in.weights[i] : 1.0f, in.y[size(in.position[i]) * size(c.hidden) + size(column)]);
  }
  if (c.shared > 0) {
    sum.add(c.shared == 2 ? in.scale[size(t)] : 1.0f, in.shared[size(t) * size(c.hidden) + size(column)]);
  }
  return sum;
}

// The step in double, on the kernel's own update (spec 2.10); state as it should be afterwards.
struct Stepped {
  double out, m, m_im, p, v;
};
Stepped step_of(const ResidualStep& s, const Inputs& in, size_t i, double y) {
  Stepped r{y, 0, 0, 0, 0};
  const double m = s.first ? 0 : in.m[i], m_im = s.first ? 0 : in.m_im[i];
  const double p = s.first_adam ? 0 : in.p[i], v = s.first_adam ? 0 : in.v[i];
  const double a = s.a, a_im = s.kind == ResidualKind::Complex ? s.a_im : 0;
  r.m = a * m - a_im * m_im + s.b * y;
  r.m_im = a_im * m + a * m_im;
  r.p = s.beta1 * p + s.rest1 * y;
  r.v = s.beta2 * v + s.rest2 * y * y;
  if (s.kind == ResidualKind::Add) r.out = in.residual[i] + y;
  if (s.kind == ResidualKind::Linear || s.kind == ResidualKind::Complex) r.out = in.residual[i] + s.s * r.m;
  if (s.kind == ResidualKind::Adam) {
    r.out = (1.0 - s.kappa) * in.residual[i] + s.s * s.gamma1 * r.p / std::sqrt(r.v + s.eps);
  }
  return r;
}

void check(const Case& c, const std::vector<Run>& runs) {
  CAPTURE(c.tokens);
  CAPTURE(c.hidden);
  CAPTURE(c.slots);
  CAPTURE(static_cast<int>(c.step.kind));
  const Inputs in(c);
  const ResidualKind kind = c.step.kind;
  const bool linear = kind == ResidualKind::Linear || kind == ResidualKind::Complex || kind == ResidualKind::Adam;
  const bool adam = kind == ResidualKind::Adam, complex = kind == ResidualKind::Complex;
  std::vector<float> first;
  for (size_t n = 0; n < runs.size(); ++n) {
    Gpu gpu(runs[n], n + 1);
    auto ids = gpu.array(in.ids, "ids"), position = gpu.array(in.position, "position");
    auto y = gpu.array(in.y, "y"), weights = gpu.array(in.weights, "weights"), shared = gpu.array(in.shared, "shared");
    auto y_bf16 = gpu.array(in.y_bf16, "y");
    auto scale = gpu.array(in.scale, "scale"), residual = gpu.array(in.residual, "residual");
    auto out = gpu.array<float>(in.residual.size(), "out"), update = gpu.array<float>(in.residual.size(), "update");
    // In the first layer the state has never been written; reading it would be a fault.
    const auto state = [&](const std::vector<float>& values, bool fresh, const char* name) {
      return fresh ? gpu.array<float>(values.size(), name) : gpu.array(values, name);
    };
    auto m = state(in.m, c.step.first, "m"), m_im = state(in.m_im, c.step.first, "m_im");
    auto p = state(in.p, c.step.first_adam, "p"), v = state(in.v, c.step.first_adam, "v");
    CombineRowsArgs args;
    if (c.f32) {
      args.y_f32 = y.data();
    } else {
      args.y = y_bf16.data();
    }
    args.ids = ids.data();
    args.position = position.data();
    if (c.weights) args.weights = weights.data();
    args.slots = c.slots;
    args.tokens = c.tokens;
    args.hidden = c.hidden;
    if (c.shared > 0) args.shared = shared.data();
    if (c.shared == 2) args.shared_scale = scale.data();
    args.residual = residual.data();
    args.step = c.step;
    args.state = {linear ? m.data() : nullptr, complex ? m_im.data() : nullptr, adam ? p.data() : nullptr,
                  adam ? v.data() : nullptr};
    args.out = c.in_place ? residual.data() : out.data();
    args.update_out = update.data();
    REQUIRE(launch_combine_rows(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    REQUIRE(update.unwritten_bytes() + (c.in_place ? 0 : out.unwritten_bytes()) == 0);
    const auto got = c.in_place ? residual.download() : out.download();
    const auto got_update = update.download();
    if (n > 0) {
      REQUIRE((got.empty() || std::memcmp(got.data(), first.data(), got.size() * sizeof(float)) == 0));
      continue;
    }
    first = got;
    const auto got_m = m.download(), got_m_im = m_im.download(), got_p = p.download(), got_v = v.download();
    for (int t = 0; t < c.tokens; ++t) {
      for (int h = 0; h < c.hidden; ++h) {
        const size_t i = size(t) * size(c.hidden) + size(h);
        const Update sum = update_of(c, in, t, h);
        REQUIRE(got_update[i] == sum.bits);
        // One rounding per term.
        REQUIRE(close(got_update[i], sum.value, (c.slots + 2) * std::ldexp(1.0, -24) * sum.magnitude));
        // A handful of f32 operations on values whose magnitudes add up to this.
        const Stepped r = step_of(c.step, in, i, got_update[i]);
        const double scale_of = std::fabs(in.residual[i]) + std::fabs(r.out) + std::fabs(got_update[i]) +
                                std::fabs(in.m[i]) + std::fabs(in.m_im[i]);
        const double bound = std::ldexp(scale_of, -20);
        REQUIRE(close(got[i], r.out, bound));
        if (linear) REQUIRE(close(got_m[i], r.m, bound));
        if (complex) REQUIRE(close(got_m_im[i], r.m_im, bound));
        if (adam) REQUIRE(close(got_p[i], r.p, bound + std::ldexp(std::fabs(in.p[i]), -20)));
        if (adam) REQUIRE(close(got_v[i], r.v, std::ldexp(r.v, -20)));
      }
    }
  }
}

const std::vector<Run> kTwo = {{emu::Schedule::LazyRoundRobin, emu::BlockOrder::Descending},
                               {emu::Schedule::EagerGreedy, emu::BlockOrder::Random}};

}  // namespace

TEST_CASE("combine_rows: token counts, in all schedules and orders") {
  for (const int tokens : {0, 1, 31, 32, 33, 65, 100}) {
    Case c{tokens, 40, 4, 8};
    c.step.kind = ResidualKind::Add;
    c.in_place = tokens == 33;
    check(c, tokens < 34 ? all_runs() : kTwo);
  }
}

TEST_CASE("combine_rows: widths, with and without 16-byte rows, and types of y") {
  for (const int hidden : {1, 8, 13, 255, 2047, 2048, 2056, 2061}) {
    for (const bool f32 : {false, true}) {
      Case c{3, hidden, 3, 5};
      c.f32 = f32;
      c.shared = f32 ? 1 : 2;
      c.weights = hidden != 13;
      check(c, kTwo);
    }
  }
}

TEST_CASE("combine_rows: more slots than threads, one slot, no slots used") {
  Case all{2, 16, 300, 300};
  check(all, kTwo);
  all.unused = false;
  check(all, kTwo);
  check({9, 24, 1, 1}, kTwo);
}

TEST_CASE("combine_rows: residual steps") {
  for (const ResidualKind kind :
       {ResidualKind::Update, ResidualKind::Add, ResidualKind::Linear, ResidualKind::Complex, ResidualKind::Adam}) {
    for (const bool first : {true, false}) {
      Case c{7, 24, 3, 6};
      c.step.kind = kind;
      c.step.a = 0.8f;
      c.step.a_im = 0.3f;
      c.step.b = 0.9f;
      c.step.s = 0.7f;
      c.step.first = c.step.first_adam = first;
      c.step.eps = 1e-3f;  // keeps the quotient of small updates comparable in absolute terms
      c.step.kappa = first ? 1.0f : 0.6f;
      c.shared = 2;
      check(c, kTwo);
      c.in_place = true;
      check(c, kTwo);
    }
  }
}
