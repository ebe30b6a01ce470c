#include "layer/moe_layer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backend.h"
#include "formats/format_info.h"
#include "formats/rtn.h"
#include "layer/reference.h"

using namespace smoe;
using smoe_test::Backend;

namespace {

struct Random {
  std::mt19937 engine;
  explicit Random(unsigned seed) : engine(seed) {}
  float normal() { return std::normal_distribution<float>(0, 1)(engine); }
  int below(int n) { return static_cast<int>(engine() % static_cast<unsigned>(n)); }
  std::vector<float> vector(int64_t n, float scale) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) value = scale * normal();
    return out;
  }
};

PackedMatrix matrix(Random& random, int64_t rows, int64_t cols, WeightFormat format) {
  const std::vector<float> values = random.vector(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
  PackedMatrix packed;
  REQUIRE(pack({values.data(), Dtype::F32, rows, cols}, format, &packed).ok());
  return packed;
}

ExpertWeights expert(Random& random, int64_t h, int64_t width, bool glu, bool biases, WeightFormat format) {
  ExpertWeights weights;
  if (glu) weights.gate = matrix(random, width, h, format);
  weights.up = matrix(random, width, h, format);
  weights.down = matrix(random, h, width, format);
  if (biases) {
    if (glu) weights.gate_bias = random.vector(width, 0.3f);
    weights.up_bias = random.vector(width, 0.3f);
    weights.down_bias = random.vector(h, 0.3f);
  }
  return weights;
}

// Each projection of each expert in a format, group and symmetry of its own (gate and up alike); sizes are multiples
// of 16.
ExpertWeights mixed_expert(Random& random, int64_t h, int64_t width, bool glu, bool biases) {
  ExpertWeights weights = expert(random, h, width, glu, biases, WeightFormat::BF16);
  const auto quantized = [&](int64_t rows, int64_t cols, int choice, bool asymmetric) {
    const std::vector<float> values = random.vector(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
    RtnOptions options;
    if (choice >= kWeightFormats) options.codebook = choice - kWeightFormats + 1;
    const WeightFormat format = choice >= kWeightFormats ? WeightFormat::W4C : WeightFormat(choice);
    PackedMatrix packed;
    const MatrixSource source{values.data(), Dtype::F32, rows, cols};
    if (format_info(format) == nullptr) {
      REQUIRE(pack(source, format, &packed).ok());
      return packed;
    }
    options.asymmetric = asymmetric && format_info(format)->asymmetric;
    options.planes = random.below(3);
    QuantizedMatrix matrix;
    const Status status = quantize_rtn(source, format, options, &matrix);
    REQUIRE_MESSAGE(status.ok(), status.message());
    REQUIRE(pack_quantized(matrix, &packed).ok());
    return packed;
  };
  const int first = random.below(kWeightFormats + 2), second = random.below(kWeightFormats + 2);
  if (glu) weights.gate = quantized(width, h, first, random.below(2) == 0);
  weights.up = quantized(width, h, first, random.below(2) == 0);
  weights.down = quantized(h, width, second, random.below(2) == 0);
  return weights;
}

// A layer whose every choice is drawn at random; sizes are deliberately not multiples of 16 or of 2, unless the
// experts' formats are `mixed`.
MoeLayer random_layer(Random& random, bool mixed = false) {
  MoeLayer layer;
  const WeightFormat format = random.below(3) == 0 ? WeightFormat::F32 : WeightFormat::BF16;
  const int64_t h = mixed ? 16 * (1 + random.below(10)) : 3 + random.below(70);
  const auto any_expert = [&](bool biases) {
    const int64_t width = mixed ? 16 * (1 + random.below(8)) : 1 + random.below(50);
    return mixed ? mixed_expert(random, h, width, layer.config.glu, biases)
                 : expert(random, h, width, layer.config.glu, biases, format);
  };
  const int e = 2 * (1 + random.below(8));
  layer.config.hidden = h;
  layer.config.glu = random.below(4) != 0;
  layer.config.activation = layer.config.glu ? Activation(random.below(3)) : Activation(random.below(5));
  layer.config.precision = random.below(2) == 0 ? Precision::Exact : Precision::Fast;
  RouterConfig& router = layer.config.router;
  router.experts = e;
  router.k = 1 + random.below(e < 4 ? e : 4);
  router.score = random.below(2) == 0 ? ScoreFn::Softmax : ScoreFn::Sigmoid;
  router.norm_p = static_cast<float>(random.below(2));
  router.norm_eps = NormEps::Add;
  router.eps = 1e-20f;
  router.scale = random.below(2) == 0 ? 1.0f : 2.5f;
  router.weight_on_input = random.below(5) == 0;
  const bool biases = random.below(2) == 0;
  layer.router_weight = matrix(random, e, h, format);
  if (biases) layer.router_bias = random.vector(e, 0.1f);
  if (random.below(2) == 0) {
    layer.model_bias = random.vector(e, 0.1f);
    router.has_bias = true;
  }
  for (int i = 0; i < e; ++i) layer.experts.push_back(any_expert(biases));
  if (random.below(2) == 0) {
    layer.shared.push_back(any_expert(biases));
    if (random.below(2) == 0) layer.shared_gate = matrix(random, 1, h, format);
  }
  REQUIRE(layer.validate().ok());
  return layer;
}

struct Run {
  std::vector<float> out;
  std::vector<int32_t> ids, count;
  std::vector<float> weights;
};

Run run(Backend& backend, const MoeLayer& layer, const std::vector<float>& hidden, int threads) {
  const int64_t h = layer.config.hidden;
  Run result;
  MoeLayer::Forward args;
  args.hidden = hidden.data();
  args.tokens = static_cast<int64_t>(hidden.size()) / h;
  const size_t pairs = static_cast<size_t>(args.tokens * layer.config.router.k);
  result.out.assign(hidden.size(), NAN);
  result.ids.resize(pairs);
  result.weights.resize(pairs);
  result.count.resize(static_cast<size_t>(args.tokens));
  Routing routing{args.tokens, layer.config.router.k, result.ids.data(), result.weights.data(), result.count.data()};
  args.routing_out = &routing;
  args.out = result.out.data();
  const Status status = backend.forward(layer, args, threads);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return result;
}

}  // namespace

BACKEND_TEST_CASE("random layers, also of mixed formats, agree with the double-precision reference") {
  const unsigned seeds = backend.repetitions(160);
  for (unsigned seed = 0; seed < seeds; ++seed) {
    Random random(seed);
    const bool mixed = seed >= seeds * 3 / 8;
    const MoeLayer layer = random_layer(random, mixed);
    const int64_t h = layer.config.hidden, tokens = random.below(4) == 0 ? 1 : 1 + random.below(40);
    const std::vector<float> hidden = random.vector(tokens * h, 1);
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
    const double bound = fast ? std::ldexp(1.0, -8) : (mixed ? 2000 : 140) * std::ldexp(1.0, -24);
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::fabs(got.out[i] - want[i]) / scale[i]);
    CHECK_MESSAGE(worst <= bound, "seed " << seed << " worst " << worst);
  }
}

BACKEND_TEST_CASE("a token's bits depend neither on its batch nor on the number of threads") {
  for (unsigned seed = 100; seed < 100 + backend.repetitions(30); ++seed) {
    Random random(seed);
    const MoeLayer layer = random_layer(random, seed % 2 == 1);
    const int64_t h = layer.config.hidden, tokens = 37;
    const std::vector<float> hidden = random.vector(tokens * h, 1);
    const Run all = run(backend, layer, hidden, 2);
    CHECK(std::memcmp(run(backend, layer, hidden, 1).out.data(), all.out.data(), all.out.size() * sizeof(float)) == 0);
    for (int64_t token : {int64_t{0}, int64_t{11}, tokens - 1}) {
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
  const std::vector<float> hidden = random.vector(tokens * h, 1);
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
  const std::vector<float> hidden = random.vector(layer.config.hidden * 5, 1);
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
  const std::vector<float> values = random.vector(layer.experts[0].up.rows * layer.config.hidden, 1);
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
