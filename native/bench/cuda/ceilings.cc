#include "cases.h"

namespace smoe::bench {
namespace {

constexpr int kReadBlocksPerSm = 2, kReadThreads = 512, kMultiplyThreads = 256;
constexpr int kLaunches = 200;
constexpr int kLapsInL2 = 200;  // about half a millisecond

const auto kNothingBefore = [](int) {};

// Bytes per second of reading `bytes` `laps` times in one launch: what L2 holds is read within a few microseconds,
// which are less than a launch.
double read_rate(BenchDevice& device, const Effort& effort, int64_t bytes, int laps) {
  const int blocks = kReadBlocksPerSm * device.info().sms;
  DeviceBlock<unsigned char> data(device, bytes);
  DeviceBlock<uint32_t> sink(device, int64_t{blocks} * kReadThreads);
  if (data.data() == nullptr || sink.data() == nullptr) return 0;
  device.ok(fill_random(device.stream(), {reinterpret_cast<uint32_t*>(data.data()), bytes / 4, 11, Fill::Codes, 1}));
  const auto seconds = timed(device, effort, kNothingBefore, [&](int) {
    device.ok(read_all(device.stream(), {data.data(), bytes, sink.data(), blocks, laps}));
  });
  return seconds.empty() ? 0 : static_cast<double>(bytes) * laps / median(seconds);
}

double multiply_rate(BenchDevice& device, const Effort& effort, bool wgmma) {
  MultiplyArgs args;
  args.blocks = 2 * device.info().sms;
  args.iterations = effort.replays < 10 ? 4 : 20000;
  args.wgmma = wgmma;
  DeviceBlock<uint32_t> sink(device, int64_t{args.blocks} * kMultiplyThreads);
  args.sink = sink.data();
  if (args.sink == nullptr) return 0;
  const auto seconds =
      timed(device, effort, kNothingBefore, [&](int) { device.ok(multiply_only(device.stream(), args)); });
  return seconds.empty() ? 0 : multiply_flops(args) / median(seconds);
}

// From one launch to the next inside a graph.
double launch_gap(BenchDevice& device, const Effort& effort, bool pdl) {
  const auto& runtime = device.runtime();
  void* graph = nullptr;
  if (!device.ok(runtime.begin_capture(device.stream()))) return 0;
  for (int i = 0; i < kLaunches; ++i) device.ok(launch_nothing(device.stream(), pdl));
  if (!device.ok(runtime.end_capture(device.stream(), &graph))) return 0;
  const auto seconds =
      timed(device, effort, kNothingBefore, [&](int) { device.ok(runtime.launch_graph(device.stream(), graph)); });
  runtime.destroy_graph(graph);
  return seconds.empty() ? 0 : median(seconds) / kLaunches;
}

// Bytes that the runtime takes for one that is asked for, of allocations as a model's experts make them.
double allocation_ratio(BenchDevice& device) {
  constexpr size_t kBytes = size_t{3} << 20, kCount = 64;
  std::vector<DeviceBlock<unsigned char>> blocks;
  const size_t before = device.memory_free();
  for (size_t i = 0; i < kCount; ++i) blocks.emplace_back(device, static_cast<int64_t>(kBytes));
  return static_cast<double>(before - device.memory_free()) / static_cast<double>(kBytes * kCount);
}

}  // namespace

double median(const std::vector<double>& sorted) { return sorted.empty() ? NAN : sorted[sorted.size() / 2]; }

double percentile99(const std::vector<double>& sorted) {
  return sorted.empty() ? NAN : sorted[(sorted.size() * 99 + 99) / 100 - 1];
}

std::vector<Json> measure_ceilings(BenchDevice& device, const Effort& effort, Ceilings* out) {
  Json memory, arithmetic;
  out->read_bytes = read_rate(device, effort, effort.read_bytes, 1);
  // A quarter of L2 stays there whatever its policy and its halves.
  const int64_t cached = static_cast<int64_t>(device.info().l2) / 4 / 4096 * 4096;
  memory.add("case", "memory ceilings").add("read_gb_s", out->read_bytes / 1e9);
  if (cached > 0)
    memory.add("l2_read_gb_s", read_rate(device, effort, cached, effort.replays < 10 ? 2 : kLapsInL2) / 1e9);
  memory.add("allocation_ratio", allocation_ratio(device));
  memory.add("launch_gap_us", launch_gap(device, effort, false) * 1e6);
  memory.add("launch_gap_pdl_us", launch_gap(device, effort, true) * 1e6);
  out->mma_flops = multiply_rate(device, effort, false);
  if (device.has_wgmma()) out->wgmma_flops = multiply_rate(device, effort, true);
  arithmetic.add("case", "arithmetic ceilings").add("mma_sync_tflops", out->mma_flops / 1e12);
  arithmetic.add("wgmma_tflops", out->wgmma_flops / 1e12);
  for (Json* const line : {&memory, &arithmetic}) {
    if (!device.error().empty()) line->add("error", device.error());
  }
  return {memory, arithmetic};
}

}  // namespace smoe::bench
