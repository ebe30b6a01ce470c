// Norms of rows against double.
#include "gpu.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  RowNorm kind;
  int tokens, width;
  int max_tokens = 0;  // 0: tokens, and no counter on the device
  int gap = 0;         // x_stride - width
  int parts = 0;       // of the planes; 0: none
  bool affine = false, ahead = false, in_place = false, f32 = true;
  float scale = 1, shift = 0, eps = 1e-5f;
};

std::vector<double> reference(const Case& c, const float* x, const std::vector<float>& weight,
                              const std::vector<float>& bias) {
  const size_t width = size_t(c.width);
  double mean = 0, squares = 0;
  if (c.kind == RowNorm::Layer) {
    for (size_t i = 0; i < width; ++i) mean += double(x[i]) / c.width;
  }
  for (size_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean) / c.width;
  const double root = std::sqrt(squares + double(c.eps));
  std::vector<double> y(width);
  for (size_t i = 0; i < width; ++i) {
    y[i] = c.kind == RowNorm::None ? double(x[i]) : root == 0 ? 0 : (x[i] - mean) / root;
    if (c.affine) y[i] = y[i] * double(weight[i]) + double(bias[i]);
  }
  return y;
}

void check(const Case& c) {
  CAPTURE(static_cast<int>(c.kind));
  CAPTURE(c.tokens);
  CAPTURE(c.width);
  CAPTURE(c.scale);
  const size_t most = size_t(c.max_tokens > 0 ? c.max_tokens : c.tokens), width = size_t(c.width),
               stride = width + size_t(c.gap), used = size_t(c.tokens) * width;
  auto x = random_floats(most * stride, 1, c.scale);
  for (float& value : x) value += c.shift;
  const auto weight = random_floats(width, 2), bias = random_floats(width, 3), ahead = random_floats(most * width, 4);
  std::vector<float> first;
  std::vector<bf16> first_planes;
  uint64_t seed = 1;
  for (const Run& run : all_runs()) {
    Gpu gpu(run, seed++);
    auto dx = gpu.array(x, "x"), dw = gpu.constant(weight, "weight"), db = gpu.constant(bias, "bias"),
         da = gpu.array(ahead, "look-ahead");
    auto out = gpu.array<float>(c.f32 && !c.in_place ? most * width : 0, "out");
    // A plane is longer than its rows: the step is the caller's.
    auto planes = gpu.array<bf16>(size_t(c.parts) * (most * width + 3), "planes");
    auto count = gpu.constant(std::vector<int32_t>{c.tokens}, "tokens");
    NormRowsArgs args;
    args.kind = c.kind;
    args.x = dx.data();
    args.width = c.width;
    args.x_stride = int64_t(stride);
    args.weight = c.affine ? dw.data() : nullptr;
    args.bias = c.affine ? db.data() : nullptr;
    args.eps = c.eps;
    args.look_ahead = c.ahead ? da.data() : nullptr;
    args.look_ahead_factor = -0.75f;
    args.num_tokens = c.max_tokens > 0 ? count.data() : nullptr;
    args.max_tokens = int64_t(most);
    args.out = c.in_place ? dx.data() : c.f32 ? out.data() : nullptr;
    if (c.parts > 0) args.planes = {planes.data(), int64_t(most * width + 3), c.parts};
    REQUIRE(launch_norm_rows(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    if (c.f32 && !c.in_place) REQUIRE(out.unwritten_bytes() == (most * width - used) * 4);
    REQUIRE(planes.unwritten_bytes() == size_t(c.parts) * (most * width + 3 - used) * 2);
    const auto y = c.in_place ? dx.download() : out.download();
    const auto p = planes.download();
    if (seed == 2) {
      first = y;
      first_planes = p;
    }
    for (size_t i = 0; c.f32 && i < used; ++i) {
      REQUIRE(bit_cast<uint32_t>(y[i]) == bit_cast<uint32_t>(first[i]));
    }
    for (int part = 0; part < c.parts; ++part) {
      const size_t at = size_t(part) * (most * width + 3);
      REQUIRE((used == 0 || std::memcmp(&p[at], &first_planes[at], used * 2) == 0));
    }
  }
  for (size_t t = 0; t < size_t(c.tokens); ++t) {
    const auto expected = reference(c, &x[t * stride], weight, bias);
    for (size_t i = 0; i < width; ++i) {
      const double gain = c.affine ? std::fabs(double(weight[i])) : 1, shift = c.affine ? double(bias[i]) : 0;
      const double look = c.ahead ? -0.75 * double(ahead[t * width + i]) : 0, value = expected[i] + look;
      // The root is within (width / 512 + 22) / 2 + 3 roundings, the element and the affine step within 6 more; a
      // layer norm rounds x - mean, whose error is that of x, which has grown by the ratio of x to its deviation.
      const double roundings = c.width / 1024.0 + 20,
                   far = c.shift == 0 ? 1 : 1 + std::fabs(double(c.shift)) / double(c.scale);
      const double tolerance =
          std::ldexp(roundings * (std::fabs(expected[i] - shift) + gain * (c.kind == RowNorm::Layer ? far : 0)) +
                         2 * (std::fabs(shift) + std::fabs(look)),
                     -24);
      if (c.f32) REQUIRE(close(double(first[t * width + i]), value, tolerance));
      double sum = 0;
      for (int part = 0; part < c.parts; ++part) {
        sum += double(to_float(first_planes[size_t(part) * (most * width + 3) + t * width + i]));
      }
      // Three parts are the f32 value itself; one is rounded to 8 bits.
      if (c.parts == 3 && c.f32) REQUIRE(sum == double(first[t * width + i]));
      if (c.parts == 1 && c.f32) REQUIRE(sum == double(to_float(to_bf16(first[t * width + i]))));
      if (c.parts > 0) {
        REQUIRE(close(sum, value, tolerance * 2 + (c.parts == 1 ? std::ldexp(std::fabs(value), -8) : 0)));
      }
    }
  }
}

Case shape(RowNorm kind, int tokens, int width) {
  Case c;
  c.kind = kind;
  c.tokens = tokens;
  c.width = width;
  return c;
}

}  // namespace

TEST_CASE("norm_rows: kinds, tokens and widths") {
  for (const RowNorm kind : {RowNorm::None, RowNorm::Rms, RowNorm::Layer}) {
    for (const int tokens : {0, 1, 7, 8, 9}) check(shape(kind, tokens, 100));
    for (const int width : {1, 3, 511, 513, 1541}) {
      Case c = shape(kind, 1, width);
      c.parts = width % 2 == 0 ? 1 : 3;
      check(c);
    }
  }
}

TEST_CASE("norm_rows: 64 and 65 rows, fewer rows than the graph has") {
  check(shape(RowNorm::Rms, 64, 20));
  Case c = shape(RowNorm::Layer, 65, 20);
  c.parts = 1;
  check(c);
  for (const int tokens : {0, 3}) {
    c = shape(RowNorm::Rms, tokens, 70);
    c.max_tokens = 5;
    c.parts = 3;
    check(c);
  }
}

TEST_CASE("norm_rows: affine, look-ahead, stride, planes alone, in place") {
  for (const RowNorm kind : {RowNorm::None, RowNorm::Rms, RowNorm::Layer}) {
    Case c = shape(kind, 3, 134);
    c.affine = c.ahead = true;
    c.gap = 5;
    c.parts = 3;
    check(c);
    c.parts = 1;
    c.f32 = false;
    check(c);
    c = shape(kind, 3, 600);
    c.in_place = c.affine = true;
    check(c);
  }
}

TEST_CASE("norm_rows: rows that are huge, tiny, zero, or far from zero") {
  for (const RowNorm kind : {RowNorm::Rms, RowNorm::Layer}) {
    for (const float scale : {1e30f, 5e18f}) {
      Case c = shape(kind, 2, 300);
      c.scale = scale;
      check(c);
    }
    Case c = shape(kind, 2, 300);
    c.scale = 1e-12f;  // eps decides
    check(c);
    c.scale = 0;
    c.eps = 0;
    check(c);
  }
  Case c = shape(RowNorm::Layer, 2, 300);
  c.shift = 1000;
  check(c);
}

TEST_CASE("norm_rows: NaN stays in its row") {
  Gpu gpu;
  std::vector<float> x(20, 1.0f);
  x[3] = NAN;
  auto dx = gpu.array(x, "x");
  auto out = gpu.array<float>(20, "out");
  NormRowsArgs args;
  args.kind = RowNorm::Rms;
  args.x = dx.data();
  args.width = args.x_stride = 10;
  args.max_tokens = 2;
  args.out = out.data();
  REQUIRE(launch_norm_rows(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  const auto y = out.download();
  for (size_t i = 0; i < 10; ++i) CHECK(std::isnan(y[i]));
  for (size_t i = 10; i < 20; ++i) CHECK(y[i] == 1.0f);
}
