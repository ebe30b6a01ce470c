// The quantized tile kernels against the ceilings of this machine.
//   quant_bench [isa] [threads] [format ...]
// Weights of random codes, K = 2048, 16-row tiles in pairs. Per row count: arithmetic rate with the weights of one pair
// in cache, and rate of packed bytes (codes, scales and zero points) with all weights in DRAM. Every figure is the
// median of laps that alternate with a plain read of as much memory, so that the ratio to it is of the same moment.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "core/thread_pool.h"
#include "formats/format_info.h"
#include "formats/quantized.h"
#include "kernels/tuning/ceilings.h"
#include "layer/tile_pairs.h"

namespace {

using namespace smoe;

constexpr int64_t kCols = 2048;
constexpr int kLaps = 9;
constexpr size_t kDramBytes = size_t{192} << 20;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

QuantizedMatrix random_matrix(WeightFormat format, int64_t rows) {
  const FormatInfo& info = *format_info(format);
  QuantizedMatrix matrix;
  matrix.format = format;
  matrix.rows = rows;
  matrix.cols = kCols;
  matrix.group = info.default_group > 0 ? info.default_group : kCols;
  std::mt19937 random(1);
  matrix.codes.resize(static_cast<size_t>(rows * kCols));
  for (uint8_t& code : matrix.codes) {
    code = static_cast<uint8_t>(random() % static_cast<unsigned>(std::min(info.max_code + 1, 127)));
  }
  matrix.scales.assign(static_cast<size_t>(rows * matrix.groups()), 0.5f);
  return matrix;
}

struct Bench {
  const KernelTable& table;
  ThreadPool& pool;
  PackedMatrix matrix;
  Precision precision;
  std::vector<uint32_t> rows;

  void pack(int m) {
    const RowLayout layout = row_layout(matrix, precision);
    std::vector<float> x(static_cast<size_t>(m * kCols), 0.25f);
    std::vector<const float*> pointers;
    for (int row = 0; row < m; ++row) pointers.push_back(x.data() + row * kCols);
    rows.assign(layout.row_bytes() * static_cast<size_t>(m) / 4 + 16, 0);
    pack_rows(table, layout, pointers.data(), nullptr, m, rows.data());
  }
  // Seconds of every thread running `pairs` tile pairs from its own part of the matrix on, `passes` times.
  // apart: a tile of each half of the part, as gate and up are two matrices; else neighbouring tiles, as in down.
  double lap(int m, int64_t pairs, int passes, bool apart) {
    const RowLayout layout = row_layout(matrix, precision);
    const int64_t part = matrix.tiles() / 2 / pool.size();
    const double begin = now();
    pool.parallel_for(pool.size(), [&](int64_t lane, int) {
      alignas(64) float out[kMaxTileRows * kOutStride];
      TilePairs tiles(table, layout, matrix, &matrix, out);
      tiles.set_rows(rows.data(), m);
      for (int pass = 0; pass < passes; ++pass) {
        for (int64_t pair = lane * part; pair < lane * part + pairs; ++pair) {
          const int64_t first = apart ? lane * part + pair : 2 * pair;
          tiles.run(first, apart ? first + part : 2 * pair + 1);
        }
      }
    });
    return now() - begin;
  }
  double read_lap() {
    const int64_t part = static_cast<int64_t>(matrix.storage.bytes()) / pool.size() / 4096 * 4096;
    const double begin = now();
    pool.parallel_for(pool.size(), [&](int64_t lane, int) {
      volatile uint32_t keep = table.probe_read(matrix.storage.as<unsigned char>() + lane * part, part);
      (void)keep;
    });
    return static_cast<double>(part) * pool.size() / (now() - begin);
  }
};

void report(const KernelTable& table, ThreadPool& pool, WeightFormat format, Precision precision, const Ceilings& top) {
  const size_t code_bytes = kCols * 2;
  QuantizedMatrix source = random_matrix(format, static_cast<int64_t>(kDramBytes / code_bytes) / 32 * 32 * 2);
  Bench bench{table, pool, {}, precision, {}};
  const double begin = now();
  if (!pack_quantized(source, &bench.matrix).ok()) std::abort();
  const double pack_rate = static_cast<double>(source.codes.size()) / (now() - begin) / 1e9;
  const RowKind kind = row_layout(bench.matrix, precision).kind;
  const double peak = kind == RowKind::Int8   ? (format == WeightFormat::W8 ? top.int8_gops : top.int4_gops)
                      : kind == RowKind::Bf16 ? top.bf16_gflops
                                              : top.fma_gflops;
  std::printf(
      "\n%s %s, packed %zu MB at %.2f GB/s of codes\n  m     Gop/s  of peak    best   DRAM GB/s  of read  adjacent "
      "tiles\n",
      weight_format_name(format), precision == Precision::Fast ? "fast" : "exact", bench.matrix.bytes() >> 20,
      pack_rate);
  source = QuantizedMatrix();
  for (int m : {1, 2, 4, 6, 8, 12}) {
    if (m > table.max_rows) break;
    bench.pack(m);
    std::vector<double> cached, dram, ratio, adjacent;
    for (int lap = 0; lap < kLaps; ++lap) {
      cached.push_back(2.0 * m * 32 * kCols * pool.size() * 100 / bench.lap(m, 1, 100, false) / 1e9);
      const int64_t pairs = bench.matrix.tiles() / 2 / pool.size();
      const double bytes = static_cast<double>(bench.matrix.bytes()) * static_cast<double>(pairs * pool.size()) /
                           static_cast<double>(bench.matrix.tiles() / 2);
      dram.push_back(bytes / bench.lap(m, pairs, 1, true) / 1e9);
      adjacent.push_back(bytes / bench.lap(m, pairs, 1, false) / 1e9);
      ratio.push_back(dram.back() * 1e9 / bench.read_lap());
    }
    const double best = *std::max_element(cached.begin(), cached.end());
    std::printf(" %2d   %7.1f   %5.1f%%  %5.1f%%    %8.1f   %5.1f%%   %8.1f\n", m, median(cached),
                100 * median(cached) / peak, 100 * best / peak, median(dram), 100 * median(ratio), median(adjacent));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "-") != 0 && !force_kernels(argv[1])) return 2;
  const KernelTable* table = kernels();
  if (table == nullptr) return 2;
  ThreadPool pool(argc > 2 ? std::max(1, std::atoi(argv[2])) : 1);
  Ceilings top;
  if (!measure_ceilings(pool, pool.size(), nullptr, &top).ok()) return 1;
  std::printf("%s, %d thread(s): DRAM %.1f GB/s, f32 %.1f, bf16 %.1f GFLOP/s, int8 %.1f GOP/s\n", table->isa,
              top.threads, top.dram_read_gbs, top.fma_gflops, top.bf16_gflops, top.int8_gops);
  for (int i = 0; i < kWeightFormats; ++i) {
    const FormatInfo* info = format_info(WeightFormat(i));
    bool wanted = argc <= 3;
    for (int arg = 3; arg < argc; ++arg)
      wanted = wanted || std::strcmp(argv[arg], weight_format_name(WeightFormat(i))) == 0;
    if (info == nullptr || !wanted) continue;
    report(*table, pool, WeightFormat(i), Precision::Fast, top);
    if (argc <= 3) report(*table, pool, WeightFormat(i), Precision::Exact, top);
  }
  return 0;
}
