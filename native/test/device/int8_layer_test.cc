// Int8 activations on a device: the CPU's arithmetic under precision fast. Every case runs on the emulation alone.
#include "layer/device_moe_layer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../moe_layer_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

struct Codes {
  WeightFormat format = WeightFormat::W4;
  int64_t group = 0;  // 0: all columns
  bool asymmetric = false;
};

struct Shape {
  int64_t hidden = 128, width = 96;
  int experts = 4, k = 2;
  std::vector<Codes> codes = {Codes()};  // of the experts in turn; of the shared one the last
  bool shared = true, biases = false, glu = true, weight_on_input = false;
  Activation activation = Activation::Silu;
};

PackedMatrix quantized(Random& random, int64_t rows, int64_t cols, const Codes& codes) {
  if (format_info(codes.format) == nullptr) return matrix(random, rows, cols, codes.format);
  const std::vector<float> values = random.row(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
  RtnOptions options;
  options.group = codes.group > 0 && cols % codes.group == 0 ? codes.group : cols;
  options.asymmetric = codes.asymmetric;
  QuantizedMatrix made;
  PackedMatrix packed;
  const Status status = quantize_rtn({values.data(), Dtype::F32, rows, cols}, codes.format, options, &made);
  REQUIRE_MESSAGE(status.ok(), status.message());
  REQUIRE(pack_quantized(made, &packed).ok());
  return packed;
}

ExpertWeights coded_expert(Random& random, const Shape& s, int64_t width, const Codes& codes) {
  ExpertWeights weights;
  if (s.glu) weights.gate = quantized(random, width, s.hidden, codes);
  weights.up = quantized(random, width, s.hidden, codes);
  weights.down = quantized(random, s.hidden, width, codes);
  if (s.biases) {
    if (s.glu) weights.gate_bias = random.row(width, 0.3f);
    weights.up_bias = random.row(width, 0.3f);
    weights.down_bias = random.row(s.hidden, 0.3f);
  }
  return weights;
}

MoeLayer make_layer(Random& random, const Shape& s) {
  MoeLayer layer;
  layer.config.hidden = s.hidden;
  layer.config.precision = Precision::Fast;
  layer.config.activations = Activations::Int8;
  layer.config.glu = s.glu;
  layer.config.activation = s.activation;
  layer.config.router.experts = s.experts;
  layer.config.router.k = s.k;
  layer.config.router.norm_p = 1;
  layer.config.router.weight_on_input = s.weight_on_input;
  layer.router_weight = matrix(random, s.experts, s.hidden, WeightFormat::F32);
  for (size_t e = 0; e < static_cast<size_t>(s.experts); ++e) {
    layer.experts.push_back(coded_expert(random, s, s.width, s.codes[e % s.codes.size()]));
  }
  if (s.shared) {
    layer.shared.push_back(coded_expert(random, s, 2 * s.width, s.codes.back()));
    layer.shared_gate = matrix(random, 1, s.hidden, WeightFormat::F32);
  }
  const Status status = layer.validate();
  REQUIRE_MESSAGE(status.ok(), status.message());
  return layer;
}

double largest(const float* row, int64_t count) {
  double most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::fabs(static_cast<double>(row[i])));
  return most;
}

// Sums have at most 12 groups, two experts, a shared one and biases: fewer than 40 roundings of 2^-24 of terms that are
// a few times the largest output of their row, below 1e-5 of it. What differs by as much between the projections may,
// where a unit lies between two codes, become the other code, which is one step of 1/127 of its group's largest unit,
// times a weight of 1/sqrt(width) or so: below 0.01 of the row. With f32 differences of 1e-6 and codes of up to 127
// that is one of 10^4 units; a row of the tests has at most 400, so more than one row in eight must not show it.
void check_rows(const std::vector<float>& got, const std::vector<float>& want, int64_t hidden, bool bits_of_units) {
  REQUIRE(got.size() == want.size());
  const int64_t rows = static_cast<int64_t>(got.size()) / hidden;
  int64_t off = 0;
  for (int64_t r = 0; r < rows; ++r) {
    double difference = 0;
    for (int64_t i = r * hidden; i < (r + 1) * hidden; ++i) {
      const size_t at = static_cast<size_t>(i);
      difference = std::max(difference, std::fabs(static_cast<double>(got[at]) - want[at]));
    }
    const double relative = difference / largest(want.data() + r * hidden, hidden);
    CHECK(relative <= 0.01);
    off += relative > 1e-5;
  }
  CHECK(off <= (bits_of_units ? 0 : 1 + rows / 8));
}

const std::vector<Codes> kSeveral[] = {
    {{WeightFormat::W8, 64}},
    {{WeightFormat::W8, 32, true}},
    {{WeightFormat::W4, 32}},
    {{WeightFormat::W4, 64, true}},
    {{WeightFormat::W3, 32, true}},
    {{WeightFormat::W2, 32, true}},
    {{WeightFormat::T2}},
    {{WeightFormat::T5}},
    {{WeightFormat::W4}},
    {{WeightFormat::W8, 32}, {WeightFormat::T2}, {WeightFormat::W4, 64, true}, {WeightFormat::W2, 32, true}},
};

}  // namespace

EMULATED_TEST_CASE("int8 activations: the CPU's results in precision fast, few tokens and many") {
  CpuBackend cpu;
  unsigned seed = 1;
  for (const auto& codes : kSeveral) {
    CAPTURE(weight_format_name(codes[0].format));
    CAPTURE(codes[0].group);
    Random random(seed++);
    Shape shape;
    shape.codes = codes;
    shape.biases = seed % 2 == 0;
    if (codes[0].format == WeightFormat::T5) shape.hidden = shape.width = 160;  // of 20 columns
    const MoeLayer layer = make_layer(random, shape);
    for (const int64_t tokens : {1, 9, 70}) {
      CAPTURE(tokens);
      const std::vector<float> hidden = random.row(tokens * shape.hidden);
      const Run got = run(backend, layer, hidden), want = run(cpu, layer, hidden);
      REQUIRE(got.ids == want.ids);
      check_rows(got.out, want.out, shape.hidden, false);
    }
  }
}

// What all this is about: bf16 activations are another rounding.
EMULATED_TEST_CASE("int8 activations differ from bf16 ones by more than f32 does") {
  CpuBackend cpu;
  Random random(20);
  MoeLayer layer = make_layer(random, Shape());
  const std::vector<float> hidden = random.row(9 * 128);
  const Run want = run(cpu, layer, hidden);
  layer.config.activations = Activations::Bf16;
  const Run got = run(backend, layer, hidden);
  double most = 0;
  for (size_t i = 0; i < got.out.size(); ++i) {
    most = std::max(most, std::fabs(static_cast<double>(got.out[i]) - want.out[i]));
  }
  CHECK(most > 1e-3 * largest(want.out.data(), 9 * 128));
}

EMULATED_TEST_CASE("int8 activations: units of many tokens have the CPU's bits, so nothing but sums differs") {
  CpuBackend cpu;
  unsigned seed = 30;
  for (const auto& codes : kSeveral) {
    Random random(seed++);
    Shape shape;
    shape.codes = codes;
    shape.glu = false;
    shape.activation = Activation::Relu;
    shape.biases = true;
    if (codes[0].format == WeightFormat::T5) shape.hidden = shape.width = 160;
    const MoeLayer layer = make_layer(random, shape);
    const std::vector<float> hidden = random.row(70 * shape.hidden);
    const Run got = run(backend, layer, hidden), want = run(cpu, layer, hidden);
    check_rows(got.out, want.out, shape.hidden, true);
  }
}

EMULATED_TEST_CASE("int8 activations: weights on the input, plain experts, sizes that are no multiples") {
  CpuBackend cpu;
  Random random(50);
  Shape on_input;
  on_input.k = 1;
  on_input.weight_on_input = true;
  on_input.codes = {{WeightFormat::W4, 32, true}, {WeightFormat::T2}, {WeightFormat::W8, 64}};
  Shape odd;
  odd.hidden = 44;
  odd.width = 20;
  odd.codes = {{WeightFormat::W4}, {WeightFormat::W8, 0, true}};
  Shape plain = odd;
  plain.glu = false;
  plain.activation = Activation::GeluErf;
  plain.k = 4;  // every expert takes every token
  for (const Shape& shape : {on_input, odd, plain}) {
    const MoeLayer layer = make_layer(random, shape);
    for (const int64_t tokens : {0, 5, 66}) {
      const std::vector<float> hidden = random.row(tokens * shape.hidden);
      const Run got = run(backend, layer, hidden), want = run(cpu, layer, hidden);
      check_rows(got.out, want.out, shape.hidden, false);
    }
  }
}

EMULATED_TEST_CASE("int8 activations: experts of several widths and groups") {
  CpuBackend cpu;
  Random random(60);
  Shape shape;
  shape.codes = {{WeightFormat::W4, 32, true}};
  MoeLayer layer = make_layer(random, shape);
  layer.experts[1] = coded_expert(random, shape, 64, {WeightFormat::T2});
  layer.experts[2] = coded_expert(random, shape, 192, {WeightFormat::W8, 64});
  REQUIRE(layer.validate().ok());
  for (const int64_t tokens : {9, 66}) {
    const std::vector<float> hidden = random.row(tokens * shape.hidden);
    check_rows(run(backend, layer, hidden).out, run(cpu, layer, hidden).out, shape.hidden, false);
  }
}

EMULATED_TEST_CASE("int8 activations: one expert takes everything; a token alone has its bits in a batch") {
  Random random(70);
  Shape shape;
  shape.codes = kSeveral[9];
  MoeLayer layer = make_layer(random, shape);
  const size_t h = static_cast<size_t>(shape.hidden);
  const std::vector<float> hidden = random.row(64 * shape.hidden);
  const auto part = [&](size_t first, size_t count) {
    return std::vector<float>(hidden.begin() + static_cast<int64_t>(first * h),
                              hidden.begin() + static_cast<int64_t>((first + count) * h));
  };
  for (const bool skewed : {false, true}) {
    if (skewed) layer.router_bias = {-50, -50, 50, 49};
    const Run all = run(backend, layer, hidden);
    for (const size_t count : {1, 8, 17, 33}) {
      const Run some = run(backend, layer, part(64 - count, count));
      CHECK(std::memcmp(some.out.data(), all.out.data() + (64 - count) * h, count * h * sizeof(float)) == 0);
    }
  }
}

EMULATED_TEST_CASE("int8 activations: a row of NaN stays alone, unused slots stay unused") {
  Random random(80);
  Shape shape;
  shape.codes = kSeveral[9];
  const MoeLayer layer = make_layer(random, shape);
  const size_t h = static_cast<size_t>(shape.hidden);
  for (const int64_t tokens : {9, 70}) {
    std::vector<float> hidden = random.row(tokens * shape.hidden);
    const Run clean = run(backend, layer, hidden);
    hidden[4 * h + 3] = NAN;
    const Run got = run(backend, layer, hidden);
    for (size_t i = 0; i < got.out.size(); ++i) {
      if (i / h == 4) {
        CHECK(std::isnan(got.out[i]));  // routed to no expert, but the shared one takes it
      } else {
        CHECK(got.out[i] == clean.out[i]);
      }
    }
    CHECK(got.ids[8] == -1);
  }
}

EMULATED_TEST_CASE("int8 activations: a shared expert of another format keeps bf16 ones") {
  CpuBackend cpu;
  Random random(90);
  Shape shape;
  shape.codes = {{WeightFormat::W4, 32, true}, {WeightFormat::BF16}};
  shape.experts = 1;
  shape.k = 1;
  const MoeLayer layer = make_layer(random, shape);
  for (const int64_t tokens : {9, 70}) {
    const std::vector<float> hidden = random.row(tokens * shape.hidden);
    const Run got = run(backend, layer, hidden), want = run(cpu, layer, hidden);
    // The shared expert's units may round to the other bf16, 2^-8 of a unit.
    for (size_t i = 0; i < got.out.size(); ++i) CHECK(std::fabs(got.out[i] - want.out[i]) <= 0.01);
  }
}

TEST_CASE("int8 activations: what they cannot be multiplied by is refused by name (emulated)") {
  Random random(100);
  ThreadPool pool(1);
  std::unique_ptr<DeviceMoeLayer> made;
  const auto refused = [&](const MoeLayer& layer, const char* text) {
    const Status status = DeviceMoeLayer::create(emulated_device(), layer, pool, nullptr, &made);
    CHECK(status.code() == Code::InvalidSpec);
    CHECK_MESSAGE(status.message().find(text) != std::string::npos, status.message());
    CHECK(made == nullptr);
  };
  Shape shape;
  shape.shared = false;
  MoeLayer layer = make_layer(random, shape);
  layer.experts[2].down = quantized(random, 128, 96, {WeightFormat::F8});
  refused(layer, "expert 2 down is f8");
  layer = make_layer(random, shape);
  layer.experts[1] = coded_expert(random, shape, 96, {WeightFormat::BF16});
  refused(layer, "expert 1 gate and up is bf16");
  layer = make_layer(random, shape);
  layer.experts[3] = coded_expert(random, shape, 96, {WeightFormat::W4, 16});
  refused(layer, "expert 3 gate and up is w4/16");
  shape.hidden = 384;
  shape.experts = 5;
  shape.codes = {{WeightFormat::W4},
                 {WeightFormat::W4, 32},
                 {WeightFormat::W4, 64},
                 {WeightFormat::W4, 96},
                 {WeightFormat::W4, 128}};
  refused(make_layer(random, shape), "at most 4 sizes of groups");
  layer.config.precision = Precision::Exact;
  const Status status = layer.validate();
  CHECK(status.code() == Code::InvalidSpec);
  CHECK_MESSAGE(status.message().find("precision \"fast\"") != std::string::npos, status.message());
}
