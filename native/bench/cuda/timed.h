// Measuring: how long, how often, and the middle of what came out.
#pragma once

#include <algorithm>
#include <vector>

#include "bench_device.h"
#include "device_kernels.h"

namespace smoe::bench {

struct Effort {
  double seconds = 0.5;  // of measuring per case, about
  int replays = 200;     // at most
  int decode_layers = 20, prefill_layers = 4;
  int64_t read_bytes = int64_t{2} << 30;
  bool once = false;  // every block once and untimed: what a profiler wants to see
};

constexpr int kWarmUps = 3, kFewest = 5;

// Seconds of every repetition, sorted; none after an error. body(i) enqueues work; `before`, which is not timed,
// prepares it.
template <class Before, class Body>
std::vector<double> timed(BenchDevice& device, const Effort& effort, Before before, Body body) {
  std::vector<double> seconds;
  Timer timer;
  double total = 0;
  for (int i = 0; i < effort.replays + kWarmUps; ++i) {
    before(i);
    timer.start(device.stream());
    body(i);
    timer.stop(device.stream());
    if (!device.synchronize()) return {};
    if (i < kWarmUps) continue;
    seconds.push_back(timer.seconds());
    total += seconds.back();
    if (total > effort.seconds && static_cast<int>(seconds.size()) >= kFewest) break;
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

double median(const std::vector<double>& sorted);
double percentile99(const std::vector<double>& sorted);

}  // namespace smoe::bench
