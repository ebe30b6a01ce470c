// P3, P4 against double: what the tests of both grouped GEMMs share.
#pragma once

#include <memory>

#include "device_codes.h"

namespace smoe::cu::test {

struct GroupedCase {
  int (*launch)(Stream, const GroupedGemmArgs&);
  int k, features;
  std::vector<int32_t> counts;
  bool glu = false, exact = false, extras = false;  // extras: gather, scale, biases
  int out_parts = 0;                                // 0: f32
  bool wgmma = true;                                // what the device has
  bool traffic = false;                             // bank conflicts are looked for
  std::vector<CodeSpec> codes = {};                 // by expert; plain, and past the end: bf16 or parts
};

inline double silu(double x) { return x / (1 + std::exp(-x)); }

inline void check_grouped(const GroupedCase& c) {
  CAPTURE(c.k);
  CAPTURE(c.features);
  const size_t experts = c.counts.size(), k = size_t(c.k), f = size_t(c.features), rows = c.glu ? 2 * f : f;
  std::vector<int32_t> offset{0}, gather;
  for (const int n : c.counts) offset.push_back(offset.back() + n);
  const size_t p = size_t(offset.back()), parts = c.exact ? 3 : 1;
  for (size_t i = 0; i < p; ++i) gather.push_back(int32_t(c.extras ? (i * 7 + 3) % p : i));
  auto w = random_floats(experts * rows * k, 1, 0.2f), x = random_floats(p * k, 2);
  const auto scale = random_floats(p, 3), bias = random_floats(experts * f, 4),
             gate_bias = random_floats(experts * f, 5);
  const auto split = [&](float value, size_t part) {
    for (size_t i = 0; i < part; ++i) value -= to_float(to_bf16(value));
    return to_bf16(value);
  };
  std::vector<bf16> planes, packed;
  for (size_t part = 0; part < parts; ++part) {
    for (const float v : x) planes.push_back(split(v, part));
    for (size_t e = 0; e < experts; ++e) {
      std::vector<bf16> m;
      for (size_t i = 0; i < rows * k; ++i) m.push_back(split(w[e * rows * k + i], part));
      if (c.glu) {
        pack_gate_up(m.data(), m.data() + f * k, c.features, c.k, &packed);
      } else {
        pack_down(m.data(), c.features, c.k, &packed);
      }
    }
  }
  if (!c.exact) {
    for (float& v : w) v = to_float(to_bf16(v));
    for (float& v : x) v = to_float(to_bf16(v));
  }
  std::vector<U32x4> atoms(packed.size() / 8);
  std::memcpy(atoms.data(), packed.data(), packed.size() * 2);
  std::vector<float> sizes;
  for (const float v : w) sizes.push_back(std::fabs(v));
  std::vector<std::unique_ptr<CodeAtoms>> coded(experts);
  for (size_t e = 0; e < c.codes.size(); ++e) {
    if (c.codes[e].plain()) continue;
    const auto matrix = [&](size_t first, unsigned seed) {
      CodedMatrix m = coded_matrix(c.codes[e], c.features, c.k, seed + unsigned(e));
      std::copy(m.values.begin(), m.values.end(), w.begin() + std::ptrdiff_t(first * k));
      std::copy(m.sizes.begin(), m.sizes.end(), sizes.begin() + std::ptrdiff_t(first * k));
      return m;
    };
    const CodedMatrix low = matrix(e * rows, 10);
    if (c.glu) {
      const CodedMatrix high = matrix(e * rows + f, 100);
      coded[e] = std::make_unique<CodeAtoms>(low.packed, high.packed);
    } else {
      coded[e] = std::make_unique<CodeAtoms>(low.packed);
    }
  }
  std::vector<float> first;
  uint64_t seed = 1;
  for (const Run& run : all_runs()) {
    // Neither the blocks nor the tile may show in the bits.
    Gpu gpu(run, seed++);
    gpu.set_wgmma(c.wgmma);
    if (seed % 2 == 0) gpu.set_shared_limit(99 * 1024);  // as sm_86, sm_89 and sm_120 have
    gpu.count_traffic(c.traffic);
    auto da = gpu.constant(atoms, "atoms");
    std::vector<AtomMatrix> m(experts);
    for (size_t e = 0; e < experts; ++e) {
      m[e].atoms = da.data() + e * (atoms.size() / parts / experts);
      m[e].part_step = int64_t(atoms.size() / parts);
      m[e].format = c.exact ? AtomFormat::Bf16x3 : AtomFormat::Bf16;
    }
    DeviceCodes codes;
    for (size_t e = 0; e < experts; ++e) {
      if (coded[e] != nullptr) m[e] = codes.upload(gpu, *coded[e], "codes");
    }
    auto read = gpu.constant(planes_read(c.codes, int(experts)), "planes read");
    auto dm = gpu.constant(m, "matrices");
    auto dx = gpu.array(planes, "x");
    auto dg = gpu.array(gather, "gather"), dof = gpu.array(offset, "offset");
    auto ds = gpu.array(scale, "scale"), db = gpu.constant(bias, "bias"), dgb = gpu.constant(gate_bias, "gate bias");
    auto out = gpu.array<float>(c.out_parts == 0 ? p * f : 0, "out");
    auto out_planes = gpu.array<bf16>(p * f * size_t(c.out_parts), "out planes");
    GroupedGemmArgs args;
    args.weights = dm.data();
    args.experts = int(experts);
    args.k = c.k;
    args.features = c.features;
    args.glu = c.glu;
    args.no_codes = c.codes.empty() && seed % 2 == 0;
    args.x = {dx.data(), int64_t(p * k), int(parts)};
    args.x_stride = c.k;
    args.offset = dof.data();
    args.max_rows = 1000;
    args.max_groups = std::vector<int>{1, 8, 20, 40, 60, 1000}[seed % 6];  // every choice of tile
    args.bf16_only = !c.exact && c.codes.empty();
    args.no_codes = c.codes.empty() && seed % 2 == 0;
    args.nested = {has_planes(c.codes), read.data()};
    if (c.out_parts == 0) args.out_f32 = out.data();
    if (c.out_parts > 0) args.out = {out_planes.data(), int64_t(p * f), c.out_parts};
    args.blocks = int(seed % 3 + 1);
    if (c.extras) {
      args.gather = dg.data();
      args.row_scale = ds.data();
      args.bias = db.data();
      args.gate_bias = dgb.data();
    }
    REQUIRE(c.launch(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
#ifndef SMOE_TEST_ON_GPU
    if (c.traffic && args.max_groups == 1) {  // the large tile
      emu::Traffic traffic;
      gpu.read_traffic(&traffic);
      for (const auto& [number, line] : traffic.lines()) {
        const bool shared = line.kind != emu::AccessKind::GlobalRead && line.kind != emu::AccessKind::GlobalWrite;
        CAPTURE(number);
        if (shared) CHECK(line.worst_ways == 1);
      }
    }
#endif
    REQUIRE(out.unwritten_bytes() + out_planes.unwritten_bytes() == 0);
    auto got = out.download();
    const auto planes_of_out = out_planes.download();
    for (size_t i = 0; i < p * f && c.out_parts > 0; ++i) {
      got.push_back(0);
      for (size_t part = size_t(c.out_parts); part-- > 0;) got.back() += to_float(planes_of_out[part * p * f + i]);
    }
    if (first.empty()) first = got;
    REQUIRE((got.empty() || std::memcmp(got.data(), first.data(), got.size() * 4) == 0));
  }
  for (size_t r = 0; r < p; ++r) {
    size_t e = 0;
    while (size_t(offset[e + 1]) <= r) ++e;
    const auto sum = [&](size_t row, double* magnitude) {
      double s = 0;
      for (size_t i = 0; i < k; ++i) {
        const double value = x[size_t(gather[r]) * k + i];
        s += value * w[(e * rows + row) * k + i];
        *magnitude += std::fabs(value * sizes[(e * rows + row) * k + i]);
      }
      if (c.extras) *magnitude *= std::fabs(scale[r]);
      return c.extras ? s * scale[r] : s;
    };
    for (size_t j = 0; j < f; ++j) {
      double a = 0, b = 0, y = sum(j, &a), bound = 0;
      // f32 sums of k terms; exact: dropped pairs of parts add 2^-22 of the magnitudes: below 2e-6 for both.
      if (c.glu) {
        double u = sum(f + j, &b);
        if (c.extras) y += gate_bias[e * f + j], u += bias[e * f + j];
        const double g = y;
        y = silu(g) * u;
        // |silu'| <= 1.1, |silu(g)| <= |g|; expf and the last roundings within 1e-6 of the value
        bound =
            2e-6 * (1.1 * (a + std::fabs(g)) * std::fabs(u) + std::fabs(g) * (b + std::fabs(u))) + 1e-6 * std::fabs(y);
      } else {
        if (c.extras) y += bias[e * f + j];
        bound = 2e-6 * (a + std::fabs(y));
      }
      if (c.out_parts == 1) bound += std::ldexp(std::fabs(y) + bound, -8);  // one rounding to bf16
      REQUIRE(close(first[r * f + j], y, bound + 1e-7));
    }
  }
}

}  // namespace smoe::cu::test
