#include "layer/moe_layer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "backend.h"
#include "layer/device_moe_layer.h"
#include "layer/reference.h"
#include "moe_layer_support.h"

using namespace smoe;
using namespace smoe_test;

BACKEND_TEST_CASE("random layers, also of mixed formats, agree with the double-precision reference") {
  const unsigned seeds = backend.repetitions(160);
  for (unsigned seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const bool mixed = seed >= seeds * 3 / 8;
    const MoeLayer layer = random_layer(random, mixed);
    const int64_t h = layer.config.hidden, few = random.below(4) == 0 ? 1 : 1 + random.below(40);
    const int64_t tokens = seed % 3 == 2 ? 64 + few : few;  // devices have another path from 65 tokens on
    const std::vector<float> hidden = random.row(tokens * h, 1);
    const Run got = run(backend, layer, hidden, 2);
    const bool fast = layer.config.precision == Precision::Fast;
    std::vector<double> scale;
    const std::vector<double> want =
        reference::moe(layer, hidden, got.ids, got.weights, layer.config.router.k, fast, &scale);
    // f32 sums of at most 72 + 51 terms and an activation: each output errs by at most about (72 + 51 + 16) * 2^-24 of
    // the sum over absolute values, which `scale` is. In fast the reference rounds the same inputs, but a hidden unit
    // that lies near a rounding boundary may fall to the other side: one bf16 ulp, 2^-8 of the unit.
    // Mixed layers are up to 160 + 128 wide, and the magnitude of a weight with zero point is code * scale + zero *
    // scale, up to twice the range of its group, some times the weight.
    // Devices round f32 and quantized weights to bf16 in fast: half an ulp, 2^-9, of each weight of three projections,
    // of x and of h, 1.2 of it through an activation: (4 * 1.2 + 2) * 2^-9 if all errors had one sign.
    const double rounded = backend.device() ? 7 * std::ldexp(1.0, -9) : std::ldexp(1.0, -8);
    const double bound = fast ? rounded : (mixed ? 2000 : 140) * std::ldexp(1.0, -24);
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::fabs(got.out[i] - want[i]) / scale[i]);
    CHECK_MESSAGE(worst <= bound, "seed " << seed << " worst " << worst);
  }
}

BACKEND_TEST_CASE("a token's bits depend neither on its batch nor on the number of threads") {
  for (unsigned seed = 100; seed < 100 + backend.repetitions(30); ++seed) {
    Random random(seed);
    const MoeLayer layer = random_layer(random, seed % 2 == 1);
    // On a device all tokens in calls of one kind.
    const RouterConfig& router = layer.config.router;
    const int64_t h = layer.config.hidden, few = DeviceMoeLayer::few_rows(router.experts, router.k);
    const int64_t tokens = backend.device() ? std::min<int64_t>(few, 37) : 37;
    const std::vector<float> hidden = random.row(tokens * h, 1);
    const Run all = run(backend, layer, hidden, 2);
    CHECK(std::memcmp(run(backend, layer, hidden, 1).out.data(), all.out.data(), all.out.size() * sizeof(float)) == 0);
    for (int64_t token : {int64_t{0}, std::min<int64_t>(11, tokens / 2), tokens - 1}) {
      const std::vector<float> one(hidden.begin() + token * h, hidden.begin() + (token + 1) * h);
      CHECK(std::memcmp(run(backend, layer, one, 2).out.data(), all.out.data() + token * h,
                        static_cast<size_t>(h) * sizeof(float)) == 0);
    }
  }
}

BACKEND_TEST_CASE("given assignments: unused slots, everything to one expert, nothing at all") {
  Random random(7);
  MoeLayer layer = random_layer(random);
  while (layer.config.router.weight_on_input) layer = random_layer(random);
  layer.config.precision = Precision::Exact;
  const int64_t h = layer.config.hidden, tokens = 29;
  const int slots = 3;
  const std::vector<float> hidden = random.row(tokens * h, 1);
  for (int kind = 0; kind < 3; ++kind) {
    std::vector<int32_t> ids(static_cast<size_t>(tokens * slots), -1), count(static_cast<size_t>(tokens));
    std::vector<float> weights(ids.size(), 0);
    for (size_t pair = 0; pair < ids.size(); ++pair) {
      if (kind == 1) ids[pair] = pair % slots == 0 ? 1 : -1;
      if (kind == 2) ids[pair] = random.below(3) == 0 ? -1 : random.below(static_cast<int>(layer.experts.size()));
      weights[pair] = ids[pair] < 0 ? 0 : random.normal();
    }
    Routing given{tokens, slots, ids.data(), weights.data(), count.data()};
    std::vector<float> out(hidden.size());
    MoeLayer::Forward args;
    args.hidden = hidden.data();
    args.tokens = tokens;
    args.routing = &given;
    args.out = out.data();
    REQUIRE(backend.forward(layer, args).ok());
    std::vector<double> scale;
    const std::vector<double> want = reference::moe(layer, hidden, ids, weights, slots, false, &scale);
    for (size_t i = 0; i < want.size(); ++i) {
      REQUIRE(std::fabs(out[i] - want[i]) <= 140 * std::ldexp(1.0, -24) * scale[i] + 1e-30);
    }
  }
}

BACKEND_TEST_CASE("no tokens is no work, and a cancelled call says so") {
  Random random(9);
  const MoeLayer layer = random_layer(random);
  MoeLayer::Forward args;
  CHECK(backend.forward(layer, args).ok());
  const std::vector<float> hidden = random.row(layer.config.hidden * 5, 1);
  std::vector<float> out(hidden.size());
  CancelFlag flag;
  flag.set = true;
  args.hidden = hidden.data();
  args.tokens = 5;
  args.out = out.data();
  args.cancel = &flag;
  CHECK(backend.forward(layer, args).code() == Code::Cancelled);
}

TEST_CASE("gate and up of different formats are refused, and bytes count scales and zero points") {
  Random random(13);
  MoeLayer layer = random_layer(random, true);
  while (!layer.config.glu) layer = random_layer(random, true);
  const std::vector<float> values = random.row(layer.experts[0].up.rows * layer.config.hidden, 1);
  QuantizedMatrix matrix;
  const MatrixSource source{values.data(), Dtype::F32, layer.experts[0].up.rows, layer.config.hidden};
  REQUIRE(quantize_rtn(source, WeightFormat::W4, 16, true, &matrix).ok());
  PackedMatrix packed;
  REQUIRE(pack_quantized(matrix, &packed).ok());
  const size_t weights = static_cast<size_t>(packed.rows * packed.cols);
  CHECK(packed.bytes() == weights / 2 + 2 * weights / 16 * 2);  // codes, f16 scales and f16 zero points
  const size_t before = layer.bytes() - layer.experts[0].up.bytes();
  layer.experts[0].up = std::move(packed);
  CHECK(layer.bytes() == before + layer.experts[0].up.bytes());
  REQUIRE(pack({values.data(), Dtype::F32, source.rows, source.cols}, WeightFormat::BF16, &layer.experts[0].gate).ok());
  CHECK(layer.validate().code() == Code::DtypeMismatch);
}

TEST_CASE("shapes that do not agree are refused by name") {
  Random random(11);
  MoeLayer layer = random_layer(random);
  layer.experts[1].down = matrix(random, layer.config.hidden + 1, layer.experts[1].up.rows, layer.experts[1].up.format);
  const Status status = layer.validate();
  CHECK(status.code() == Code::ShapeMismatch);
  CHECK(status.message().find("expert 1 down") != std::string::npos);
}
