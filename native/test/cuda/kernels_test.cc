// Correct kernels, in both schedules and three block orders: the same bits every time, within derived bounds of a
// double reference. u = 2^-24 is the unit roundoff of f32; a sum of n terms errs by at most (n-1) u times the sum of
// absolute terms (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).
#include "gpu.h"
#include "kernels/gemm.cuh"
#include "kernels/reduce.cuh"
#include "kernels/ring.cuh"
#include "kernels/wgmma.cuh"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

constexpr double kU = 1.0 / (1 << 24);

// Runs `body` (which launches, and returns the results) in every mode; all results must have the same bits.
template <class Body>
std::vector<float> same_in_all_runs(Body body) {
  std::vector<float> first;
  for (const Run& run : all_runs()) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      Gpu gpu(run, seed);
      const std::vector<float> result = body(gpu);
      if (first.empty()) first = result;
      REQUIRE(std::memcmp(first.data(), result.data(), first.size() * sizeof(float)) == 0);
    }
  }
  return first;
}

}  // namespace

TEST_CASE("block reduction") {
  const int blocks = 5, threads = 256;
  const auto in = random_floats(blocks * threads, 1);
  const auto out = same_in_all_runs([&](Gpu& gpu) {
    auto input = gpu.array(in, "in");
    auto output = gpu.array<float>(blocks, "out");
    launch(gpu.stream(), {blocks, threads, 0, false}, &block_reduce<Bug::None>, {input.data(), output.data()});
    CHECK(output.unwritten_bytes() == 0);
    CHECK(gpu.fault() == "");
    return output.download();
  });
  for (int b = 0; b < blocks; ++b) {
    double sum = 0, magnitude = 0;
    for (int i = 0; i < threads; ++i) {
      sum += in[b * threads + i];
      magnitude += std::fabs(in[b * threads + i]);
    }
    CHECK(close(out[b], sum, 10 * kU * magnitude));  // a tree of depth 10
  }
}

TEST_CASE("a warp turns its values around") {
  const auto in = random_floats(3 * 64, 2);
  const auto out = same_in_all_runs([&](Gpu& gpu) {
    auto input = gpu.array(in, "in"), output = gpu.array<float>(in.size(), "out");
    launch(gpu.stream(), {3, 64, 0, false}, &warp_reverse<Bug::None>, {input.data(), output.data()});
    CHECK(gpu.fault() == "");
    return output.download();
  });
  for (size_t i = 0; i < in.size(); ++i) CHECK(out[i] == in[i / 32 * 32 + 31 - i % 32]);
}

TEST_CASE("last-arriver reduction, replayed without clearing the ticket") {
  const int blocks = 7, threads = 128;
  const auto in = random_floats(blocks * threads, 3);
  const auto out = same_in_all_runs([&](Gpu& gpu) {
    auto input = gpu.array(in, "in"), partials = gpu.array<float>(blocks, "partials"),
         output = gpu.array<float>(1, "out");
    auto ticket = gpu.array(std::vector<uint32_t>{0}, "ticket");
    for (int replay = 0; replay < 3; ++replay) {
      launch(gpu.stream(), {blocks, threads, 0, true}, &ticket_reduce<Bug::None>,
             {input.data(), partials.data(), ticket.data(), output.data()});
    }
    CHECK(ticket.download()[0] == 0);
    CHECK(gpu.fault() == "");
    return output.download();
  });
  double sum = 0, magnitude = 0;
  for (const float x : in) {
    sum += x;
    magnitude += std::fabs(x);
  }
  CHECK(close(out[0], sum, (5 + 3 + blocks) * kU * magnitude));
}

TEST_CASE("tiled bf16 GEMM: cp.async double buffering, ldmatrix, mma") {
  const int m = 128, n = 64, k = 160;
  const auto a = random_bf16(m * k, 4), b = random_bf16(n * k, 5);
  const auto c = same_in_all_runs([&](Gpu& gpu) {
    auto da = gpu.array(a, "a"), db = gpu.array(b, "b");
    auto dc = gpu.array<float>(m * n, "c");
    launch(gpu.stream(), {m / kGemmM * (n / kGemmN), 128, kGemmShared, false}, &gemm<Bug::None>,
           {da.data(), db.data(), dc.data(), m, n, k});
    CHECK(dc.unwritten_bytes() == 0);
    CHECK(gpu.fault() == "");
    return dc.download();
  });
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int x = 0; x < k; ++x) {
        const double product = static_cast<double>(to_float(a[i * k + x])) * to_float(b[j * k + x]);
        sum += product;
        magnitude += std::fabs(product);
      }
      // products of bf16 are exact in f32; k additions
      REQUIRE(close(c[i * n + j], sum, k * kU * magnitude));
    }
  }
}

TEST_CASE("bulk-copy ring with mbarriers") {
  const int blocks = 3;
  for (const int pieces : {1, 2, 3, 4, 11}) {
    CAPTURE(pieces);
    const auto in = random_floats(static_cast<size_t>(blocks * pieces * kRingFloats), 6);
    const auto out = same_in_all_runs([&](Gpu& gpu) {
      auto input = gpu.array(in, "in"), output = gpu.array<float>(blocks * kRingFloats, "out");
      launch(gpu.stream(), {blocks, kRingThreads, kRingShared, false}, &ring_sum<Bug::None>,
             {input.data(), output.data(), pieces});
      CHECK(gpu.fault() == "");
      return output.download();
    });
    for (int b = 0; b < blocks; ++b) {
      for (int i = 0; i < kRingFloats; ++i) {
        double sum = 0, magnitude = 0;
        for (int p = 0; p < pieces; ++p) {
          const double x = in[static_cast<size_t>((b * pieces + p) * kRingFloats + i)];
          sum += x;
          magnitude += std::fabs(x);
        }
        REQUIRE(close(out[static_cast<size_t>(b * kRingFloats + i)], sum, pieces * kU * magnitude));
      }
    }
  }
}

namespace {

template <int N, bool relay = false>
void check_wgmma() {
  const int k = 128;
  const auto a = random_bf16(64 * k, 7), b = random_bf16(N * k, 8);
  const auto c = same_in_all_runs([&](Gpu& gpu) {
    auto da = gpu.array(a, "a"), db = gpu.array(b, "b");
    auto dc = gpu.array<float>(64 * N, "c");
    launch(gpu.stream(), {1, 128, wgmma_shared<N>, false}, &wgmma_gemm<N, Bug::None, relay>,
           {da.data(), db.data(), dc.data(), k});
    CHECK(dc.unwritten_bytes() == 0);
    CHECK(gpu.fault() == "");
    return dc.download();
  });
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      double sum = 0, magnitude = 0;
      for (int x = 0; x < k; ++x) {
        const double product = static_cast<double>(to_float(a[i * k + x])) * to_float(b[j * k + x]);
        sum += product;
        magnitude += std::fabs(product);
      }
      REQUIRE(close(c[i * N + j], sum, k * kU * magnitude));
    }
  }
}

}  // namespace

TEST_CASE("wgmma with A in registers and a 128-byte swizzled B") {
  check_wgmma<8>();
  check_wgmma<16>();
  check_wgmma<64>();
  check_wgmma<128>();
  check_wgmma<144>();
  check_wgmma<256>();
  check_wgmma<32, true>();
}

#ifndef SMOE_TEST_ON_GPU
TEST_CASE("bank conflicts and sectors of the GEMM") {
  Gpu gpu;
  gpu.count_traffic(true);
  const int m = 64, n = 32, k = 64;
  auto a = gpu.array(random_bf16(m * k, 1), "a"), b = gpu.array(random_bf16(n * k, 2), "b");
  auto c = gpu.array<float>(m * n, "c");
  launch(gpu.stream(), {1, 128, kGemmShared, false}, &gemm<Bug::None>, {a.data(), b.data(), c.data(), m, n, k});
  REQUIRE(gpu.fault() == "");
  int ldmatrix_lines = 0;
  emu::Traffic traffic;
  gpu.read_traffic(&traffic);
  for (const auto& [number, line] : traffic.lines()) {
    if (line.kind != emu::AccessKind::Ldmatrix) continue;
    ++ldmatrix_lines;
    CHECK(line.worst_ways == 1);
  }
  CHECK(ldmatrix_lines == 2);
}
#endif
