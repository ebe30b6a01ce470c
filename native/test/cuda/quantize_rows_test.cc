// Activations to int8, to the bit.
#include "int8_case.h"
#ifndef SMOE_TEST_ON_GPU
#include "kernels/kernel_table.h"
#endif

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int rows, k;
  std::vector<int> groups;  // of plain rows; of each expert where dispatched
  std::vector<int> counts;  // dispatched: rows of each expert
  int tokens = 0;           // gathered from; 0: row r itself
  bool mask = false;        // gathered by bits
  bool scaled = false;
  bool counted = false;  // rows on the device, fewer than the launch allows
};

// Values with every kind of group among them: ordinary, zero, tiny, subnormal, ties, NaN and infinities.
std::vector<float> values_of(int rows, int k, unsigned seed) {
  auto x = random_floats(static_cast<size_t>(rows * k), seed);
  for (int r = 0; r < rows; ++r) {
    float* const row = x.data() + r * k;
    for (int i = 0; i < k; ++i) {
      if (r % 8 == 1) row[i] = i / 32 % 2 == 0 ? 0.0f : row[i];
      if (r % 8 == 2) row[i] *= i / 32 % 2 == 0 ? 0x1p-110f : 0x1p-140f;
      if (r % 8 == 3) row[i] = static_cast<float>(i % 255 - 127) + 0.5f;  // halves, where amax is 127 or so
      if (r % 8 == 4) row[i] *= 1e30f;
    }
    if (r % 8 == 3) row[0] = 127;
    if (r % 8 == 5) row[k / 2] = NAN;
    if (r % 8 == 6) row[k - 1] = r % 2 == 0 ? -INFINITY : INFINITY;
  }
  return x;
}

void check(const Case& c, unsigned seed) {
  CAPTURE(c.k);
  CAPTURE(c.rows);
  const bool dispatched = !c.counts.empty();
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  const int sources = c.tokens > 0 ? c.tokens : c.rows;
  const auto x = values_of(sources, c.k, seed);
  std::vector<int32_t> offset{0}, gather;
  std::vector<uint64_t> mask;
  std::mt19937 random(seed);
  for (const int n : c.counts) {
    offset.push_back(offset.back() + n);
    std::vector<int32_t> tokens(size(std::max(c.tokens, 1)));
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i);
    std::shuffle(tokens.begin(), tokens.end(), random);
    std::sort(tokens.begin(), tokens.begin() + std::min<int>(n, c.tokens));
    mask.push_back(0);
    for (int i = 0; i < n && c.tokens > 0; ++i) {
      gather.push_back(tokens[size(i)]);
      mask.back() |= uint64_t{1} << tokens[size(i)];
    }
  }
  const auto factor = random_floats(size(c.rows), seed + 1);
  const auto expert_of = [&](int row) {
    int e = 0;
    while (offset[size(e + 1)] <= row) ++e;
    return e;
  };
  int64_t most = 1;
  for (const int group : c.groups) most = std::max(most, int8_groups(c.k, group));
  uint64_t run_seed = 1;
  for (const Run& run : all_runs()) {
    Gpu gpu(run, run_seed++);
    auto dx = gpu.array(x, "x");
    std::vector<AtomMatrix> matrices(c.groups.size());
    for (size_t e = 0; e < matrices.size(); ++e) matrices[e].group = c.groups[e];
    auto weights = gpu.constant(matrices, "matrices");
    auto d_offset = gpu.array(offset, "offset"), d_gather = gpu.array(gather, "gather");
    auto d_mask = gpu.array(mask, "mask");
    auto d_factor = gpu.array(factor, "factor");
    auto count = gpu.array(std::vector<int32_t>{c.rows}, "count");
    QuantizeRowsArgs args;
    args.x = dx.data();
    args.x_stride = args.k = c.k;
    args.max_rows = c.counted ? c.rows + 5 : c.rows;
    if (c.counted) args.num_rows = count.data();
    args.out.dispatched = dispatched;
    args.out.count = dispatched ? 1 : static_cast<int>(c.groups.size());
    std::vector<emu::Buffer<uint8_t>> codes;
    std::vector<emu::Buffer<U32x2>> scales;
    for (int i = 0; i < args.out.count; ++i) {
      const int64_t groups = dispatched ? most : int8_groups(c.k, c.groups[size(i)]);
      codes.push_back(gpu.array<uint8_t>(size(c.rows * int8_stride(c.k)), "codes"));
      scales.push_back(gpu.array<U32x2>(size(c.rows * groups), "scales"));
      args.out.rows[i] = {codes.back().data(), scales.back().data(), int8_stride(c.k), groups,
                          dispatched ? 0 : c.groups[size(i)]};
    }
    args.weights = weights.data();
    args.experts = static_cast<int>(c.counts.size());
    if (dispatched) {
      args.offset = d_offset.data();
      if (c.tokens > 0 && !c.mask) args.gather = d_gather.data();
      if (c.mask) args.mask = d_mask.data();
      if (c.scaled) args.row_scale = d_factor.data();
    }
    args.blocks = static_cast<int>(run_seed % 3) * 2 + 1;
    REQUIRE(launch_quantize_rows(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    for (int i = 0; i < args.out.count; ++i) {
      REQUIRE(codes[size(i)].unwritten_bytes() == 0);
      const int64_t stride = int8_stride(c.k), row_groups = args.out.rows[i].groups;
      std::vector<uint8_t> got = codes[size(i)].download();
      std::vector<U32x2> pairs = scales[size(i)].download();
      for (int r = 0; r < c.rows; ++r) {
        const int group = c.groups[size(dispatched ? expert_of(r) : i)];
        const int source = c.tokens > 0 ? gather[size(r)] : r;
        const QuantizedRow want = quantize_row(x.data() + size(source) * size(c.k), c.k, group,
                                               dispatched && c.scaled ? factor[size(r)] : 1.0f);
        for (int64_t g = 0; g < int8_groups(c.k, group); ++g) {
          const U32x2 pair = pairs[size(r * row_groups + g)];
          const bool real = g < static_cast<int64_t>(want.scales.size());
          const float scale = real ? want.scales[size(g)] : 0.0f;
          if (std::isnan(scale)) {
            REQUIRE(std::isnan(bit_cast<float>(pair.x[0])));
            continue;
          }
          REQUIRE(pair.x[0] == bit_cast<uint32_t>(scale));
          REQUIRE(static_cast<int32_t>(pair.x[1]) == (real ? want.sums[size(g)] : 0));
        }
        for (int64_t s = 0; s < stride; ++s) {
          const int64_t col = s / 32 * 32 + physical_k(static_cast<int>(s % 32));
          const bool real = col < c.k;
          if (real && std::isnan(want.scales[size(col / want.group)])) continue;
          if (!real && group == 0 && std::isnan(want.scales[0])) continue;
          REQUIRE(static_cast<int8_t>(got[size(r * stride + s)]) == (real ? want.codes[size(col)] : 0));
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("quantize_rows: rows, groups of every kind, at once") {
  check({9, 256, {32, 64, 128, 0}, {}}, 1);
  check({17, 384, {0, 96, 384, 192}, {}}, 2);
  check({8, 40, {0}, {}}, 3);
  check({1, 2, {0}, {}}, 4);
  check({8, 1056, {32, 0, 352}, {}}, 5);
  check({0, 64, {32}, {}}, 6);
  Case counted{9, 96, {32, 0}, {}};
  counted.counted = true;
  check(counted, 7);
}

TEST_CASE("quantize_rows: rows of a dispatch, each in the groups of its expert") {
  Case c{14, 192, {32, 0, 64, 96, 0}, {5, 0, 8, 0, 1}};
  check(c, 10);  // row r itself: hidden units
  c.tokens = 9;
  c.scaled = true;
  check(c, 11);  // gathered and weighted
  c.mask = true;
  check(c, 12);
  check({0, 64, {32, 0}, {0, 0}}, 13);
}

TEST_CASE("quantize_rows: nothing to do") {
  Gpu gpu;
  CHECK(launch_quantize_rows(gpu.stream(), QuantizeRowsArgs()) == 0);
}

#ifndef SMOE_TEST_ON_GPU
TEST_CASE("quantize_rows: the reference of these tests is what the CPU does") {
  const KernelTable& cpu = *find_kernels("portable");
  for (const int group : {32, 96, 192}) {
    const int k = 192, rows = 8;
    const auto x = values_of(rows, k, 20);
    for (int r = 0; r < rows; ++r) {
      for (const float factor : {1.0f, -0.37f}) {
        const float* row = x.data() + r * k;
        std::vector<int8_t> codes(k);
        std::vector<float> scales(static_cast<size_t>(k / group));
        std::vector<int32_t> sums(scales.size());
        cpu.pack_rows_int8(&row, &factor, 1, k, k, group, codes.data(), scales.data(), sums.data());
        const QuantizedRow want = quantize_row(row, k, group, factor);
        for (size_t g = 0; g < scales.size(); ++g) {
          REQUIRE(std::isnan(scales[g]) == std::isnan(want.scales[g]));
          if (std::isnan(scales[g])) continue;
          REQUIRE(scales[g] == want.scales[g]);
          REQUIRE(sums[g] == want.sums[g]);
          for (int i = 0; i < group; ++i) {
            const size_t at = g * static_cast<size_t>(group) + static_cast<size_t>(i);
            REQUIRE(codes[at] == want.codes[at]);
          }
        }
      }
    }
  }
}
#endif
