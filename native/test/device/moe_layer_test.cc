// What a device's layer does that the CPU's need not be asked: two paths by the number of tokens, dispatch by masks,
// schedules. Every case runs on the emulation alone.
#include "layer/device_moe_layer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "layer_shape.h"

using namespace smoe;
using namespace smoe_test;

EMULATED_TEST_CASE("numbers of tokens on both sides of every path: as on the CPU") {
  CpuBackend cpu;
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    Random random(1);
    Shape shape;
    shape.precision = precision;
    const MoeLayer layer = make_layer(random, shape);
    for (const int64_t tokens : {0, 1, 7, 8, 9, 23, 24, 64, 65, 200}) {  // in fast also few_rows(), 23, and more
      CAPTURE(tokens);
      const std::vector<float> hidden = random.row(tokens * shape.hidden);
      const Run got = run(backend, layer, hidden), want = run(cpu, layer, hidden);
      CHECK(got.ids == want.ids);
      CHECK(got.count == want.count);
      check_close(got.weights, want.weights, Precision::Exact);
      check_close(got.out, want.out, precision);
    }
  }
}

EMULATED_TEST_CASE(
    "a token's bits depend neither on its batch nor on its place in it, and its experts not on the path") {
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    Random random(2);
    Shape shape;
    shape.precision = precision;
    const MoeLayer layer = make_layer(random, shape);
    const size_t h = static_cast<size_t>(shape.hidden);
    const std::vector<float> hidden = random.row(100 * shape.hidden);
    const auto part = [&](size_t first, size_t count) {
      return std::vector<float>(hidden.begin() + static_cast<int64_t>(first * h),
                                hidden.begin() + static_cast<int64_t>((first + count) * h));
    };
    const Run all = run(backend, layer, part(0, 64)), many = run(backend, layer, hidden);
    // Of six experts, two per token: 23 rows are the last of fewer than eight per expert, where all kernels have a
    // path.
    const size_t few = precision == Precision::Fast ? 23 : 64;
    const Run all_few = run(backend, layer, part(0, few));
    for (const size_t count : {1, 8, 17, 33}) {
      const Run& whole = count <= few ? all_few : all;
      const size_t first = (count <= few ? few : 64) - count;
      const Run some = run(backend, layer, part(first, count));
      CHECK(std::memcmp(some.out.data(), whole.out.data() + first * h, count * h * sizeof(float)) == 0);
    }
    CHECK(std::memcmp(all.ids.data(), many.ids.data(), all.ids.size() * sizeof(int32_t)) == 0);
    CHECK(std::memcmp(all.weights.data(), many.weights.data(), all.weights.size() * sizeof(float)) == 0);
    const Run later = run(backend, layer, part(30, 70));  // many tokens, in other rows and tiles
    CHECK(std::memcmp(later.out.data(), many.out.data() + 30 * h, 70 * h * sizeof(float)) == 0);
  }
}

EMULATED_TEST_CASE("one expert takes everything, and every expert takes every token") {
  CpuBackend cpu;
  for (const int k : {1, 6}) {
    Random random(3);
    Shape shape;
    shape.k = k;
    MoeLayer layer = make_layer(random, shape);
    if (k == 1) layer.router_bias = {-50, -50, -50, 50, -50, -50};
    for (const int64_t tokens : {9, 70}) {
      const std::vector<float> hidden = random.row(tokens * shape.hidden);
      const Run got = run(backend, layer, hidden), want = run(cpu, layer, hidden);
      if (k == 1) CHECK(got.ids == std::vector<int32_t>(static_cast<size_t>(tokens), 3));
      CHECK(got.ids == want.ids);
      check_close(got.out, want.out, Precision::Exact);
    }
  }
}

EMULATED_TEST_CASE("a row of NaN stays alone") {
  Random random(4);
  const Shape shape;
  const MoeLayer layer = make_layer(random, shape);
  const size_t h = static_cast<size_t>(shape.hidden);
  for (const int64_t tokens : {9, 70}) {
    std::vector<float> hidden = random.row(tokens * shape.hidden);
    const Run clean = run(backend, layer, hidden);
    std::fill(hidden.begin() + static_cast<int64_t>(4 * h), hidden.begin() + static_cast<int64_t>(5 * h), NAN);
    const Run got = run(backend, layer, hidden);
    for (size_t i = 0; i < got.out.size(); ++i) {
      // Routed to no expert, but the shared one takes it.
      if (i / h == 4) {
        CHECK(std::isnan(got.out[i]));
      } else {
        CHECK(got.out[i] == clean.out[i]);
      }
    }
    CHECK(got.count[4] == 0);
    CHECK(got.ids[8] == -1);
  }
}

EMULATED_TEST_CASE("given assignments: unused slots, an expert twice, logits and counts beside them") {
  CpuBackend cpu;
  Random random(5);
  const Shape shape;
  const MoeLayer layer = make_layer(random, shape);
  const int slots = 3;
  for (const int64_t tokens : {5, 80}) {
    const std::vector<float> hidden = random.row(tokens * shape.hidden);
    std::vector<int32_t> ids, count(static_cast<size_t>(tokens), slots);
    std::vector<float> weights;
    for (int64_t pair = 0; pair < tokens * slots; ++pair) {
      ids.push_back(random.below(4) == 0 ? -1 : random.below(6));
      weights.push_back(random.normal());
    }
    ids[0] = ids[1] = 2;
    Routing given{tokens, slots, ids.data(), weights.data(), count.data()};
    struct Result {
      std::vector<float> out, logits, update;
      std::vector<int32_t> ids;
      std::vector<uint64_t> counts = std::vector<uint64_t>(6, 100);
    };
    const auto forward = [&](Backend& on) {
      Result result;
      result.out.resize(hidden.size());
      result.update.resize(hidden.size());
      result.logits.resize(static_cast<size_t>(tokens) * 6);
      result.ids.resize(ids.size());
      std::vector<float> kept(ids.size());
      std::vector<int32_t> kept_count(count.size());
      Routing out{tokens, slots, result.ids.data(), kept.data(), kept_count.data()};
      MoeLayer::Forward args;
      args.hidden = args.residual = hidden.data();
      args.tokens = tokens;
      args.routing = &given;
      args.routing_out = &out;
      args.step.kind = ResidualKind::Add;
      args.out = result.out.data();
      args.update_out = result.update.data();
      args.router_logits = result.logits.data();
      args.expert_counts = result.counts.data();
      const Status status = on.forward(layer, args);
      REQUIRE_MESSAGE(status.ok(), status.message());
      CHECK(same_bits(kept, weights));
      CHECK(kept_count == count);
      return result;
    };
    const Result got = forward(backend), want = forward(cpu);
    CHECK(got.ids == ids);
    CHECK(got.counts == want.counts);
    check_close(got.logits, want.logits, Precision::Exact);
    check_close(got.update, want.update, Precision::Exact);
    check_close(got.out, want.out, Precision::Exact);
  }
}

EMULATED_TEST_CASE("every residual step and its states on both paths, in place, counts of a routed call") {
  CpuBackend cpu;
  Random random(6);
  Shape shape;
  shape.hidden = 13;  // padded to 16 on the device
  const MoeLayer layer = make_layer(random, shape);
  for (int kind = 0; kind < 10; ++kind) {
    const int64_t tokens = kind % 2 == 0 ? 5 : 70;
    ResidualStep step;
    step.kind = ResidualKind(kind / 2);
    step.a = 0.6f;
    step.a_im = 0.3f;
    step.b = 0.9f;
    step.s = -1;
    step.kappa = 0.4f;
    step.eps = 1e-3f;
    struct Result {
      std::vector<float> out, m, m_im, p, v;
      std::vector<uint64_t> counts = std::vector<uint64_t>(6, 1);
    };
    const auto forward = [&](Backend& on) {
      Random again(7);
      const auto rows = [&] { return again.row(tokens * shape.hidden); };
      const std::vector<float> hidden = rows();
      Result result;
      result.out = rows();
      result.m = rows();
      result.m_im = rows();
      result.p = rows();
      result.v = rows();
      for (float& v : result.v) v *= v;
      for (int layer_index = 0; layer_index < 2; ++layer_index) {
        step.first = step.first_adam = layer_index == 0;
        MoeLayer::Forward args;
        args.hidden = hidden.data();
        args.residual = result.out.data();
        args.tokens = tokens;
        args.step = step;
        args.state = {result.m.data(), result.m_im.data(), result.p.data(), result.v.data()};
        args.out = result.out.data();
        args.expert_counts = result.counts.data();
        const Status status = on.forward(layer, args);
        REQUIRE_MESSAGE(status.ok(), status.message());
      }
      return result;
    };
    const Result got = forward(backend), want = forward(cpu);
    CAPTURE(kind);
    CHECK(got.counts == want.counts);
    check_close(got.out, want.out, Precision::Exact);
    check_close(got.m, want.m, Precision::Exact);
    check_close(got.m_im, want.m_im, Precision::Exact);
    check_close(got.p, want.p, Precision::Exact);
    check_close(got.v, want.v, Precision::Exact);
  }
}

EMULATED_TEST_CASE("long calls are cut into chunks: counts and rows of all of them") {
  Random random(8);
  Shape shape;
  shape.hidden = 8;
  shape.width = 8;
  shape.experts = 4;
  shape.k = 1;
  shape.shared = false;
  shape.precision = Precision::Fast;
  const MoeLayer layer = make_layer(random, shape);
  const int64_t tokens = 4099;  // two chunks of at most 4096
  const std::vector<float> hidden = random.row(tokens * shape.hidden);
  std::vector<float> out(hidden.size(), NAN);
  std::vector<uint64_t> counts(4, 0);
  MoeLayer::Forward args;
  args.hidden = hidden.data();
  args.tokens = tokens;
  args.out = out.data();
  args.expert_counts = counts.data();
  REQUIRE(backend.forward(layer, args).ok());
  CHECK(counts[0] + counts[1] + counts[2] + counts[3] == static_cast<uint64_t>(tokens));
  const std::vector<float> last(hidden.end() - 70 * 8, hidden.end());
  const Run tail = run(backend, layer, last);
  CHECK(std::memcmp(tail.out.data(), out.data() + (tokens - 70) * 8, 70 * 8 * sizeof(float)) == 0);
}

TEST_CASE("the same bits under every schedule and order of blocks (emulated)") {
  Random random(9);
  Shape shape;
  shape.precision = Precision::Fast;
  const MoeLayer layer = make_layer(random, shape);
  for (const int64_t tokens : {20, 70}) {
    const std::vector<float> hidden = random.row(tokens * shape.hidden);
    Run first;
    for (int schedule = 0; schedule < 2; ++schedule) {
      for (int order = 0; order < 3; ++order) {
        DeviceBackend backend(schedule);
        emulate("order", order);
        emulate("seed", 10 * schedule + order);
        const Run got = run(backend, layer, hidden);
        if (first.out.empty()) first = got;
        CHECK(same_bits(got.out, first.out));
        CHECK(same_bits(got.weights, first.weights));
        CHECK(got.ids == first.ids);
      }
    }
    emulate("order", 0);
    emulate("seed", 1);
  }
}

TEST_CASE("what the kernels cannot do is refused before any work (emulated)") {
  Random random(10);
  ThreadPool pool(1);
  std::unique_ptr<DeviceMoeLayer> made;
  MoeLayer many = constant_layer(std::vector<std::vector<float>>(40, {1, 2}), std::vector<float>(40, 0), 33);
  Status status = DeviceMoeLayer::create(emulated_device(), many, pool, nullptr, &made);
  CHECK(status.code() == Code::InvalidSpec);
  CHECK_MESSAGE(status.message().find("at most 32 of 1024 experts") != std::string::npos, status.message());

  MoeLayer nested = make_layer(random, Shape());
  nested.experts[0].gate = nested_matrix(random, 24, 40, 2);  // beside an up projection of another format
  REQUIRE(DeviceMoeLayer::create(emulated_device(), nested, pool, nullptr, &made).ok());
  const std::vector<float> hidden = random.row(40);
  std::vector<float> out(40, 5.0f);
  const uint8_t bits[6] = {2, 2, 2, 2, 2, 2};
  MoeLayer::Forward args;
  args.hidden = hidden.data();
  args.tokens = 1;
  args.out = out.data();
  args.expert_bits = bits;
  status = made->forward(args);
  CHECK(status.code() == Code::InvalidArgument);
  CHECK_MESSAGE(status.message().find("expert bits") != std::string::npos, status.message());
  CHECK(out == std::vector<float>(40, 5.0f));
  args.expert_bits = nullptr;
  CHECK(made->forward(args).ok());

  MoeLayer on_input = make_layer(random, Shape());
  on_input.config.router.weight_on_input = true;
  REQUIRE(DeviceMoeLayer::create(emulated_device(), on_input, pool, nullptr, &made).ok());
  int32_t ids[2] = {3, 3}, count = 2;
  float weights[2] = {1, 2};
  Routing given{1, 2, ids, weights, &count};
  args.expert_bits = nullptr;
  args.routing = &given;
  CHECK(made->forward(args).code() == Code::InvalidArgument);
  ids[1] = 4;
  CHECK(made->forward(args).ok());
}
