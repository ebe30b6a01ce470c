// The tile kernels alone against the measured ceilings of this machine, on one thread or several.
//   tile_bench [isa] [threads]
// Two questions per kernel and row count: with the weights in L2 (64 rows of K = 2048 reuse a tile pair), how busy are
// the multipliers; with the weights in DRAM, how busy is the memory.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/ceilings.h"
#include "core/thread_pool.h"
#include "kernels/kernel_table.h"

namespace {

constexpr int64_t kCols = 2048;
constexpr int kLaps = 9;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Kernel {
  const char* name;
  smoe::TileFn run;
  int cols_per_chunk;
  bool bf16_ceiling;
};

struct Shape {
  int64_t chunks, tile_bytes, pairs;  // tile pairs per thread
  int m;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Median seconds of every thread running all its tile pairs `passes` times. adjacent: the pair is two neighbouring
// tiles of one matrix (down projection), else one tile of each of two matrices (gate and up).
double time_pass(smoe::ThreadPool& pool, const Kernel& kernel, const Shape& shape, const unsigned char* weights,
                 const void* x, int passes, bool adjacent) {
  const int threads = pool.size();
  std::vector<double> seconds;
  for (int lap = 0; lap < kLaps; ++lap) {
    const double begin = now();
    pool.parallel_for(threads, [&](int64_t part, int) {
      alignas(64) float out[16 * smoe::kOutStride];
      const unsigned char* first = weights + part * shape.pairs * 2 * shape.tile_bytes;
      const unsigned char* second = first + (adjacent ? 1 : shape.pairs) * shape.tile_bytes;
      const int64_t step = (adjacent ? 2 : 1) * shape.tile_bytes;
      for (int pass = 0; pass < passes; ++pass) {
        for (int64_t pair = 0; pair < shape.pairs; ++pair) {
          smoe::TileArgs args;
          args.w0 = first + pair * step;
          args.w1 = second + pair * step;
          args.x = x;
          args.chunks = shape.chunks;
          args.m = shape.m;
          args.out = out;
          kernel.run(args);
        }
      }
    });
    seconds.push_back(now() - begin);
  }
  return median(seconds);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "-") != 0 && !smoe::force_kernels(argv[1])) {
    std::fprintf(stderr, "%s is not usable here\n", argv[1]);
    return 2;
  }
  const smoe::KernelTable* table = smoe::kernels();
  if (table == nullptr) return 2;
  const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 1;
  smoe::ThreadPool pool(threads);
  smoe::Ceilings ceilings;
  const smoe::Status status = smoe::measure_ceilings(pool, threads, nullptr, &ceilings);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  std::printf("%s, %d thread(s): DRAM %.1f GB/s, L3 %.1f GB/s, f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s\n", table->isa,
              ceilings.threads, ceilings.dram_read_gbs, ceilings.l3_read_gbs, ceilings.fma_gflops,
              ceilings.bf16_gflops);

  constexpr size_t kDramBytes = size_t{256} << 20, kL3Bytes = size_t{8} << 20;
  smoe::Buffer weights, x;
  if (!weights.allocate(kDramBytes).ok() || !x.allocate(16 * kCols * 4).ok()) return 1;
  // 0x3c23 and 0x3c233c23 are small normal numbers as bf16 and as f32.
  std::fill_n(weights.as<uint16_t>(), kDramBytes / 2, uint16_t{0x3c23});
  std::fill_n(x.as<uint16_t>(), 16 * kCols * 2, uint16_t{0x3c23});

  const Kernel all[] = {{"bf16 fast", table->tile[1][1], 2, true},
                        {"bf16 exact", table->tile[1][0], 2, false},
                        {"f32", table->tile[0][0], 1, false}};
  for (const Kernel& kernel : all) {
    std::printf("\n%s\n  m   L2 GFLOP/s  of peak    L3 GB/s  of peak   DRAM GB/s  of peak  DRAM adjacent tiles\n",
                kernel.name);
    for (int m = 1; m <= table->max_rows; ++m) {
      Shape shape;
      shape.m = m;
      shape.chunks = kCols / kernel.cols_per_chunk;
      shape.tile_bytes = shape.chunks * 64;
      const auto with_bytes = [&](size_t bytes) {
        shape.pairs = static_cast<int64_t>(bytes) / threads / (2 * shape.tile_bytes);
        return static_cast<double>(shape.pairs * 2 * shape.tile_bytes) * threads;
      };
      shape.pairs = 1;
      const double flops = 2.0 * m * 32 * kCols * threads;
      const double l2 =
          flops * 200 / time_pass(pool, kernel, shape, weights.as<unsigned char>(), x.data(), 200, true) / 1e9;
      double bytes = with_bytes(kL3Bytes);
      const double l3 =
          bytes * 4 / time_pass(pool, kernel, shape, weights.as<unsigned char>(), x.data(), 4, false) / 1e9;
      bytes = with_bytes(kDramBytes);
      const double apart =
          bytes / time_pass(pool, kernel, shape, weights.as<unsigned char>(), x.data(), 1, false) / 1e9;
      const double adjacent =
          bytes / time_pass(pool, kernel, shape, weights.as<unsigned char>(), x.data(), 1, true) / 1e9;
      const double peak = kernel.bf16_ceiling ? ceilings.bf16_gflops : ceilings.fma_gflops;
      std::printf(" %2d   %10.1f   %5.1f%%   %8.1f   %5.1f%%    %8.1f   %5.1f%%    %8.1f\n", m, l2, 100 * l2 / peak, l3,
                  100 * l3 / ceilings.l3_read_gbs, apart, 100 * apart / ceilings.dram_read_gbs, adjacent);
    }
  }
  return 0;
}
