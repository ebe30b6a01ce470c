// Rates of the emulator (not of any GPU): fiber switches and emulated mma instructions per second. Run by hand, see
// native/cuda/README.md; never part of the tests.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/cu.h"
#include "kernels/gemm.cuh"
#include "kernels/reduce.cuh"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

template <class Body>
double seconds(Body body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void measure(const char* name, emu::Schedule schedule, bool track) {
  emu::Device device;
  device.options.schedule = schedule;
  device.options.track = track;
  const int blocks = 1000, threads = 256;
  emu::Buffer<float> in(device, std::vector<float>(static_cast<size_t>(blocks * threads), 1.0f), "in");
  emu::Buffer<float> out(device, blocks, "out");
  const uint64_t before = device.engine().switches();
  const double t =
      seconds([&] { launch(&device, {blocks, threads, 0, false}, &block_reduce<Bug::None>, {in.data(), out.data()}); });
  const double switches = static_cast<double>(device.engine().switches() - before);
  const int m = 128, n = 64, k = 512;
  emu::Buffer<bf16> a(device, std::vector<bf16>(static_cast<size_t>(m * k), to_bf16(1)), "a");
  emu::Buffer<bf16> b(device, std::vector<bf16>(static_cast<size_t>(n * k), to_bf16(1)), "b");
  emu::Buffer<float> c(device, static_cast<size_t>(m * n), "c");
  const double g = seconds([&] {
    for (int i = 0; i < 5; ++i) {
      launch(&device, {m / kGemmM * (n / kGemmN), 128, kGemmShared, false}, &gemm<Bug::None>,
             {a.data(), b.data(), c.data(), m, n, k});
    }
  });
  const double mma = 5.0 * (m / 16) * (n / 8) * (k / 16);
  std::printf("%-28s %6.2f M threads/s, %6.1f M switches/s, %7.0f k mma/s, %5.2f GFLOP/s in the GEMM  %s\n", name,
              blocks * threads / t / 1e6, switches / t / 1e6, mma / g / 1e3, mma * 4096 / g / 1e9,
              device.report().text().c_str());
}

}  // namespace

int main() {
  measure("lazy, checks off", emu::Schedule::LazyRoundRobin, false);
  measure("lazy, checks on", emu::Schedule::LazyRoundRobin, true);
  measure("eager, checks off", emu::Schedule::EagerGreedy, false);
  measure("eager, checks on", emu::Schedule::EagerGreedy, true);
}
