// Linear maps against double: what the tests of linear_rows and of linear_tiles share.
#pragma once

#include <memory>

#include "coded_matrix.h"
#include "gpu.h"

namespace smoe::cu::test {

struct LinearCase {
  int (*launch)(Stream, const LinearArgs&) = nullptr;
  int tokens, rows, k;
  int batch = 1, max_tokens = 0;  // 0: tokens, and no counter on the device
  int weight_parts = 1, x_parts = 1, out_parts = 0;
  bool bias = false, sigmoid = false, in_place = false, f32 = true;
  bool shared_x = false;  // every map reads the same columns
  bool aligned = false;   // steps of 16 bytes
  CodeSpec codes = {};    // of the weights; plain: bf16 or parts
};

inline std::vector<bf16> split(const std::vector<float>& values, int part) {
  std::vector<bf16> result;
  for (float value : values) {
    for (int i = 0; i < part; ++i) value -= to_float(to_bf16(value));
    result.push_back(to_bf16(value));
  }
  return result;
}

struct LinearInputs {
  LinearCase c;
  size_t most, x_stride, out_stride, x_step, out_step;
  std::vector<float> x, weight, weight_size, bias, residual;  // weight_size: as in coded_matrix.h
  std::vector<bf16> planes;
  std::shared_ptr<const CodeAtoms> codes;  // null: bf16
  std::vector<U32x4> atoms;

  explicit LinearInputs(const LinearCase& made) : c(made) {
    const size_t rows = size_t(c.rows), k = size_t(c.k), batch = size_t(c.batch);
    most = size_t(c.max_tokens > 0 ? c.max_tokens : c.tokens);
    const size_t unit = c.aligned ? 8 : 2;
    x_step = c.shared_x ? 0 : (k + unit + 1) / unit * unit;  // a gap that belongs to nobody
    x_stride = (c.shared_x ? k + 1 : x_step * batch + 1) / unit * unit + unit;
    out_step = rows + 3;
    out_stride = out_step * batch + 1;
    x = random_floats(most * x_stride, 1);
    weight = random_floats(batch * rows * k, 2, 1 / std::sqrt(float(c.k)));
    bias = random_floats(batch * rows, 3);
    residual = random_floats(most * out_stride, 4);
    for (int p = 0; p < c.x_parts; ++p) {
      auto part = split(x, p);
      // What lies between the rows must not matter, not even as 0 * NaN.
      for (size_t i = 0; i < part.size(); ++i) {
        const size_t col = i % x_stride;
        const bool inside = c.shared_x ? col < k : col / x_step < batch && col % x_step < k;
        if (!inside) part[i] = {0x7FFF};
      }
      planes.insert(planes.end(), part.begin(), part.end());
    }
    std::vector<bf16> packed;
    for (int p = 0; p < c.weight_parts; ++p) {
      const auto part = split(weight, p);
      for (size_t b = 0; b < batch; ++b) pack_down(part.data() + b * rows * k, c.rows, c.k, &packed);
    }
    atoms.resize(packed.size() / 8);
    std::memcpy(atoms.data(), packed.data(), packed.size() * 2);
    if (c.weight_parts == 1) round(&weight);
    if (c.x_parts == 1) round(&x);
    for (const float value : weight) weight_size.push_back(std::fabs(value));
    if (!c.codes.plain()) code();
  }
  void code() {
    const CodedMatrix m = coded_matrix(c.codes, int64_t{c.batch} * c.rows, c.k, 5);
    weight = m.values;
    weight_size = m.sizes;
    const int64_t blocks = row_blocks(c.rows);
    const auto row = [&](int64_t block, int j) {
      const int64_t at = block % blocks * kAtomRows + j;
      return at < c.rows ? AtomRow{&m.packed, block / blocks * c.rows + at} : AtomRow{};
    };
    codes = std::make_shared<CodeAtoms>(std::vector<const PackedMatrix*>{&m.packed}, c.batch * blocks, row);
    atoms = codes->atoms;
  }
  static void round(std::vector<float>* values) {
    for (float& value : *values) value = to_float(to_bf16(value));
  }
};

struct LinearOutputs {
  std::vector<float> y;
  std::vector<bf16> planes;
};

inline LinearOutputs run_linear(const LinearInputs& in, const Run& run, uint64_t seed, int blocks) {
  const LinearCase& c = in.c;
  Gpu gpu(run, seed);
  if (seed % 3 == 0) gpu.set_shared_limit(99 * 1024);  // as sm_86, sm_89 and sm_120 have
  auto x = gpu.array(in.planes, "x");
  auto atoms = gpu.constant(in.atoms, "atoms");
  const std::vector<unsigned char> none;
  auto scales = gpu.constant(in.codes != nullptr ? in.codes->scales : none, "scales"),
       zeros = gpu.constant(in.codes != nullptr ? in.codes->zeros : none, "zeros");
  auto bias = gpu.constant(in.bias, "bias");
  auto residual = gpu.array(in.residual, "residual");
  auto count = gpu.array(std::vector<int32_t>{c.tokens}, "tokens");
  const size_t all = in.most * in.out_stride;
  auto out = gpu.array<float>(c.in_place ? 0 : all, "out");
  auto planes = gpu.array<bf16>(all * size_t(c.out_parts), "planes");
  LinearArgs args;
  args.weight.atoms = atoms.data();
  args.weight.part_step = int64_t(in.atoms.size()) / c.weight_parts;
  args.weight.format = c.weight_parts == 3 ? AtomFormat::Bf16x3 : AtomFormat::Bf16;
  if (in.codes != nullptr) args.weight = in.codes->view(atoms.data(), scales.data(), zeros.data());
  args.rows = c.rows;
  args.k = c.k;
  args.batch = c.batch;
  args.bias = c.bias ? bias.data() : nullptr;
  args.x = {x.data(), int64_t(in.most * in.x_stride), c.x_parts};
  args.x_stride = int64_t(in.x_stride);
  args.x_step = int64_t(in.x_step);
  args.sigmoid = c.sigmoid;
  args.residual = c.in_place ? residual.data() : nullptr;
  args.out = c.in_place ? residual.data() : c.f32 ? out.data() : nullptr;
  if (c.out_parts > 0) args.out_planes = {planes.data(), int64_t(all), c.out_parts};
  args.out_stride = int64_t(in.out_stride);
  args.out_step = int64_t(in.out_step);
  args.num_tokens = c.max_tokens > 0 ? count.data() : nullptr;
  args.max_tokens = int64_t(in.most);
  args.blocks = blocks;
  REQUIRE(c.launch(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  const size_t used = size_t(c.tokens * c.batch * c.rows);
  if (c.f32 && !c.in_place) REQUIRE(out.unwritten_bytes() == (all - used) * 4);
  REQUIRE(planes.unwritten_bytes() == (all - used) * 2 * size_t(c.out_parts));
  return {c.in_place ? residual.download() : out.download(), planes.download()};
}

inline void check_linear(const LinearCase& c) {
  CAPTURE(c.tokens);
  CAPTURE(c.rows);
  CAPTURE(c.k);
  CAPTURE(c.weight_parts);
  CAPTURE(c.x_parts);
  CAPTURE(static_cast<int>(c.codes.format));
  const LinearInputs in(c);
  LinearOutputs first;
  uint64_t seed = 1;
  for (const Run& run : all_runs()) {
    // The number of blocks must not show in the bits either.
    const LinearOutputs got = run_linear(in, run, seed, seed % 2 == 0 ? 3 : 50);
    if (seed++ == 1) first = got;
    REQUIRE((got.y.empty() || std::memcmp(got.y.data(), first.y.data(), got.y.size() * 4) == 0));
    REQUIRE((got.planes.empty() || std::memcmp(got.planes.data(), first.planes.data(), got.planes.size() * 2) == 0));
  }
  const size_t all = in.most * in.out_stride;
  for (int t = 0; t < c.tokens; ++t) {
    for (int row = 0; row < c.batch * c.rows; ++row) {
      const size_t map = size_t(row / c.rows),
                   at = size_t(t) * in.out_stride + map * in.out_step + size_t(row % c.rows);
      double y = 0, magnitude = 0;
      for (size_t i = 0; i < size_t(c.k); ++i) {
        const double value = double(in.x[size_t(t) * in.x_stride + map * in.x_step + i]);
        y += value * double(in.weight[size_t(row) * size_t(c.k) + i]);
        magnitude += std::fabs(value * double(in.weight_size[size_t(row) * size_t(c.k) + i]));
      }
      if (c.bias) y += double(in.bias[size_t(row)]);
      // f32 sums of k terms, and of eight warps or of six pairs of parts; up to six products per term, of which those
      // left out are 3 * 2^-24; the bias, and expf within 2^-21.
      double tolerance = std::ldexp((c.k + 16) * magnitude + 2 * std::fabs(y), -24);
      // Codes and three parts of x: the sums of groups are as exact as those of three parts (gate_up_test.cc).
      if (in.codes != nullptr && c.x_parts == 3) tolerance = 1e-6 * magnitude + std::ldexp(std::fabs(y), -23);
      if (c.sigmoid) {
        y = 1 / (1 + std::exp(-y));
        tolerance += std::ldexp(1, -21);
      }
      if (c.in_place) {
        y += double(in.residual[at]);
        tolerance += std::ldexp(std::fabs(y), -24);
      }
      if (c.f32) REQUIRE(close(double(first.y[at]), y, tolerance));
      double sum = 0;
      for (int part = 0; part < c.out_parts; ++part) sum += double(to_float(first.planes[size_t(part) * all + at]));
      if (c.out_parts == 3 && c.f32) REQUIRE(sum == double(first.y[at]));
      if (c.out_parts == 1 && c.f32) REQUIRE(sum == double(to_float(to_bf16(first.y[at]))));
      if (c.out_parts > 0) {
        REQUIRE(close(sum, y, tolerance * 2 + (c.out_parts == 1 ? std::ldexp(std::fabs(y), -8) : 0)));
      }
    }
  }
}

inline LinearCase linear_case(int (*launch)(Stream, const LinearArgs&), int tokens, int rows, int k) {
  LinearCase c;
  c.launch = launch;
  c.tokens = tokens;
  c.rows = rows;
  c.k = k;
  return c;
}

// What every kernel of linear maps does alike, at the numbers of tokens where its own sizes change.

// One or three parts of weights and of rows.
inline void check_parts(LinearCase c) {
  for (const int parts : {1, 3}) {
    for (const int x_parts : {1, 3}) {
      c.weight_parts = parts;
      c.x_parts = x_parts;
      check_linear(c);
    }
  }
}

// Bias, sigmoid, residual in place, planes; fewer tokens than the `max_tokens` of a graph, none, and one.
inline void check_epilogues(const LinearCase& plain, int max_tokens) {
  for (const int out_parts : {0, 1, 3}) {
    LinearCase c = plain;
    c.out_parts = out_parts;
    c.bias = true;
    check_linear(c);
    c.sigmoid = true;
    check_linear(c);
    c.in_place = true;
    c.max_tokens = max_tokens;
    check_linear(c);
    if (out_parts == 0) continue;
    c.in_place = c.f32 = c.sigmoid = false;
    c.tokens = 0;
    check_linear(c);
    c.tokens = 1;
    check_linear(c);
  }
}

// Five maps, of rows of their own or of the same.
inline void check_side_by_side(LinearCase c) {
  c.batch = 5;
  c.bias = true;
  c.weight_parts = c.x_parts = c.out_parts = 3;
  for (const bool shared : {false, true}) {
    c.shared_x = shared;
    check_linear(c);
  }
}

// The bits of `some` rows by themselves, with more blocks and in another order.
inline void check_rows_alone(const LinearCase& c, int blocks, std::initializer_list<size_t> some) {
  const LinearInputs all(c);
  const auto y = run_linear(all, nth_run(0), 1, blocks).y;
  LinearCase alone = c;
  alone.tokens = 1;
  alone.codes = CodeSpec{};  // those of `all` are given to it
  for (const size_t token : some) {
    LinearInputs one(alone);
    const auto row = all.planes.begin() + std::ptrdiff_t(token * all.x_stride);
    one.planes.assign(row, row + std::ptrdiff_t(all.x_stride));
    one.atoms = all.atoms;
    one.codes = all.codes;
    const auto single = run_linear(one, nth_run(3), 1, 2).y;
    CHECK(std::memcmp(single.data(), &y[token * all.out_stride], size_t(c.rows) * 4) == 0);
  }
}

}  // namespace smoe::cu::test
