#include "kernels/tuning/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#if defined(__linux__)
#include <unistd.h>
#endif

#include "core/buffer.h"
#include "kernels/kernel_table.h"

namespace smoe {
namespace {

constexpr int kLaps = 7;
// 16 times a 32 MiB L3, so that hardly anything survives in it until the next lap.
constexpr size_t kDramBytes = size_t{512} << 20;
// Many short laps: on a machine with other work one of them runs undisturbed sooner than one of a few long ones.
constexpr double kLapSeconds = 0.002;
constexpr int kArithmeticLaps = 40;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Lane {
  double begin = 0, end = 0;
  double flops = 0;
  alignas(64) float keep = 0;  // the probes' results end here, or the compiler would drop them
};

class Stopwatch {
 public:
  Stopwatch(ThreadPool& pool, int threads) : pool_(pool), threads_(threads) {}
  int threads() const { return threads_; }
  Lane& lane(int index) { return lanes_[index]; }

  // Seconds from the first start to the last end of body(lane index) on all threads at once. A pool that another
  // operation keeps busy runs our indices one after the other; the laps then go on with the one thread that is ours.
  template <class F>
  double lap(F&& body) {
    for (;;) {
      std::atomic<int> arrived{0};
      std::atomic<bool> alone{false};
      pool_.parallel_for(threads_, [&](int64_t index, int) {
        arrived.fetch_add(1);
        const double give_up = now() + 0.1;  // far longer than waking a thread takes
        while (arrived.load() < threads_ && !alone.load()) {
          if (now() > give_up) alone.store(true);
        }
        Lane& lane = lanes_[index];
        lane.begin = now();
        if (!alone.load()) body(static_cast<int>(index));
        lane.end = now();
      });
      if (!alone.load()) break;
      threads_ = 1;
    }
    double begin = lanes_[0].begin, end = lanes_[0].end;
    for (int i = 1; i < threads_; ++i) {
      begin = std::min(begin, lanes_[i].begin);
      end = std::max(end, lanes_[i].end);
    }
    return std::max(end - begin, 1e-9);
  }

 private:
  ThreadPool& pool_;
  int threads_;
  Lane lanes_[kMaxPoolThreads];
};

// Bytes per second of reading `slice` bytes per thread `passes` times.
double read_rate(Stopwatch& watch, const KernelTable& table, const unsigned char* data, size_t slice, int passes) {
  const double seconds = watch.lap([&](int lane) {
    uint32_t sum = 0;
    for (int pass = 0; pass < passes; ++pass) {
      sum += table.probe_read(data + static_cast<size_t>(lane) * slice, static_cast<int64_t>(slice));
    }
    watch.lane(lane).keep = static_cast<float>(sum);
  });
  return static_cast<double>(slice) * passes * watch.threads() / seconds;
}

using ArithmeticProbe = float (*)(int64_t, double*);

double arithmetic_rate(Stopwatch& watch, ArithmeticProbe probe, const CancelFlag* cancel) {
  int64_t rounds = 1000;
  double best = 0;
  for (int lap = 0; lap < kArithmeticLaps && !cancelled(cancel);) {
    const double seconds = watch.lap([&](int lane) {
      watch.lane(lane).flops = 0;
      watch.lane(lane).keep = probe(rounds, &watch.lane(lane).flops);
    });
    if (seconds < kLapSeconds) {  // too short to time, and the clock is not up to speed yet
      rounds *= 2;
      continue;
    }
    double flops = 0;
    for (int i = 0; i < watch.threads(); ++i) flops += watch.lane(i).flops;
    best = std::max(best, flops / seconds);
    ++lap;
  }
  return best;
}

// Per thread: several times its L2, and all together at most half of L3. 0 when the sizes are unknown or leave no
// such slice.
size_t l3_slice(int threads) {
#if defined(__linux__) && defined(_SC_LEVEL3_CACHE_SIZE)
  const long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (l2 <= 0 || l3 <= 0) return 0;
  const size_t slice =
      std::min(static_cast<size_t>(l2) * 4, static_cast<size_t>(l3) / 2 / static_cast<size_t>(threads));
  return slice >= static_cast<size_t>(l2) * 2 ? slice / 4096 * 4096 : 0;
#else
  (void)threads;
  return 0;
#endif
}

}  // namespace

Status measure_ceilings(ThreadPool& pool, int threads, const CancelFlag* cancel, Ceilings* out) {
  const KernelTable* table = kernels();
  if (table == nullptr) return error(Code::IsaUnavailable, "SMOE_ISA names an instruction set that this CPU lacks");
  if (cancelled(cancel)) return error(Code::Cancelled, "cancelled");
  threads = std::max(1, std::min({threads, pool.size(), kMaxPoolThreads}));
  Buffer buffer;
  SMOE_RETURN_IF_ERROR(buffer.allocate(kDramBytes));
  // Not zero: untouched or merged zero pages would be read from cache.
  std::memset(buffer.data(), 1, buffer.bytes());
  const unsigned char* data = buffer.as<unsigned char>();

  Stopwatch watch(pool, threads);
  Ceilings result;
  for (int lap = 0; lap < kLaps && !cancelled(cancel); ++lap) {
    const size_t slice = kDramBytes / static_cast<size_t>(watch.threads()) / 4096 * 4096;
    result.dram_read_gbs = std::max(result.dram_read_gbs, read_rate(watch, *table, data, slice, 1) / 1e9);
  }
  if (const size_t slice = l3_slice(watch.threads())) {
    const int passes = static_cast<int>(std::max<size_t>(1, (size_t{128} << 20) / slice / watch.threads()));
    for (int lap = 0; lap < kLaps && !cancelled(cancel); ++lap) {
      result.l3_read_gbs = std::max(result.l3_read_gbs, read_rate(watch, *table, data, slice, passes) / 1e9);
    }
  }
  result.fma_gflops = arithmetic_rate(watch, table->probe_fma, cancel) / 1e9;
  result.bf16_gflops =
      table->probe_bf16 != nullptr ? arithmetic_rate(watch, table->probe_bf16, cancel) / 1e9 : result.fma_gflops;
  result.int8_gops = arithmetic_rate(watch, table->probe_int8, cancel) / 1e9;
  result.int4_gops =
      table->probe_int4 != nullptr ? arithmetic_rate(watch, table->probe_int4, cancel) / 1e9 : result.int8_gops;
  result.threads = watch.threads();
  if (cancelled(cancel)) return error(Code::Cancelled, "cancelled");
  *out = result;
  return Status();
}

}  // namespace smoe
