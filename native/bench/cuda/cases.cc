#include "cases.h"

namespace smoe::bench {
namespace {

constexpr double kGateShare = 0.90, kGateFixed = 7e-6;  // specs/cuda-kernels.md 2.0

Json describe(const Case& c, const char* kind) {
  Json line;
  line.add("case", kind).add("shape", c.shape.name).add("format", c.format.name).add("tokens", c.tokens);
  line.add("skew", skew_name(c.skew));
  const bool few = c.tokens <= cu::kDispatchMaxTokens;
  line.add("path", few ? c.grouped ? "grouped" : "fused" : c.hopper ? "wgmma" : "mma.sync");
  return line;
}

// Experts that T tokens are expected to touch under uniform routing.
double expected_experts(const Case& c) {
  const double missed = std::pow(1 - static_cast<double>(c.shape.k) / c.shape.experts, static_cast<double>(c.tokens));
  return c.shape.experts * (1 - missed);
}

// So many sets of weights that what is read meanwhile is four times the second-level cache; 0: not one fits.
int sets_for(BenchDevice& device, const Case& c, int layers, int64_t scratch) {
  const double set = static_cast<double>(MoeRig::set_bytes(c.shape, c.format));
  const double read = expected_experts(c) * static_cast<double>(MoeRig::expert_bytes(c.shape, c.format));
  const double room = 0.9 * static_cast<double>(device.memory_free()) - static_cast<double>(scratch);
  const int wanted = 1 + static_cast<int>(std::ceil(4 * static_cast<double>(device.info().l2) / read));
  const int fit = room < set ? 0 : static_cast<int>(std::min(room / set, 1000.0));
  return std::min({std::max(wanted, 2), fit, layers});
}

struct Replays {
  std::vector<double> seconds;  // of one layer, sorted
  double active = 0;            // experts per layer
};

// Captures `layers` blocks and replays them with new inputs each time.
template <class Block>
Replays replay(BenchDevice& device, MoeRig& rig, const Case& c, int layers, const Effort& effort, Block block) {
  const auto& runtime = device.runtime();
  Replays result;
  rig.draw(c.tokens, 1);
  block(0);  // once outside the capture: raises the limits of shared memory
  if (!device.synchronize() || effort.once) return result;
  void* graph = nullptr;
  if (!device.ok(runtime.begin_capture(device.stream()))) return result;
  for (int layer = 0; layer < layers; ++layer) block(layer);
  const bool captured = device.ok(runtime.end_capture(device.stream(), &graph));
  if (!captured) return result;
  double active = 0;
  int counted = 0;
  result.seconds = timed(
      device, effort,
      [&](int i) {
        if (i > 0) active += rig.active_experts(layers), ++counted;
        rig.draw(c.tokens, static_cast<uint32_t>(i) + 2);
      },
      [&](int) { device.ok(runtime.launch_graph(device.stream(), graph)); });
  runtime.destroy_graph(graph);
  for (double& s : result.seconds) s /= layers;
  result.active = counted > 0 ? active / counted / layers : 0;
  return result;
}

void add_times(Json* line, const Replays& r, int layers, int sets) {
  line->add("layers", layers).add("sets", sets).add("replays", static_cast<int64_t>(r.seconds.size()));
  line->add("us_median", median(r.seconds) * 1e6).add("us_p99", percentile99(r.seconds) * 1e6);
}

}  // namespace

Json run_decode(BenchDevice& device, const Case& c, const Ceilings& ceilings, const Effort& effort) {
  Json line = describe(c, "decode");
  const int layers = effort.decode_layers;
  const int64_t inputs = int64_t{6} * layers * cu::kDispatchMaxTokens * c.shape.hidden;
  const int sets = sets_for(device, c, layers, inputs + (int64_t{256} << 20));
  if (sets == 0) return line.add("skipped", "one set of weights does not fit the memory");
  MoeRig rig(device, c.shape, c.format, sets, layers, c.grouped ? c.tokens : 0);
  rig.set_skew(c.skew);
  const int tokens = static_cast<int>(c.tokens);
  Replays r = replay(device, rig, c, layers, effort,
                     [&](int layer) { c.grouped ? rig.prefill(layer, tokens, false) : rig.decode(layer, tokens); });
  if (c.grouped) r.active = expected_experts(c);  // which no mask tells
  if (!device.error().empty()) return line.add("error", device.error());
  if (effort.once) return line;
  // Weights of the experts that were used, the router, rows of x (twice), h (written and read) and out.
  const double h = static_cast<double>(c.shape.hidden), rows = static_cast<double>(c.tokens);
  const double bytes = r.active * static_cast<double>(MoeRig::expert_bytes(c.shape, c.format)) +
                       2 * h * c.shape.experts + rows * h * (4 + 2 + 4) + rows * c.shape.k * 4.0 * c.shape.width;
  const double seconds = median(r.seconds), gate = bytes / (kGateShare * ceilings.read_bytes) + kGateFixed;
  add_times(&line, r, layers, sets);
  line.add("active_experts", r.active).add("mb", bytes / 1e6).add("gb_s", bytes / seconds / 1e9);
  line.add("roofline_us", bytes / ceilings.read_bytes * 1e6);
  line.add("ratio", bytes / ceilings.read_bytes / seconds);
  return line.add("gate_us", gate * 1e6).add("gate_met", seconds <= gate);
}

Json run_prefill(BenchDevice& device, const Case& c, const Ceilings& ceilings, const Effort& effort) {
  Json line = describe(c, "prefill");
  if (c.hopper && !c.format.wgmma) return line.add("skipped", "not a format of the wgmma kernel");
  if (c.hopper && !device.has_wgmma()) return line.add("skipped", "this device has no wgmma");
  const int layers = effort.prefill_layers;
  const int64_t scratch = MoeRig::prefill_bytes(c.shape, c.format, c.tokens) + 6 * layers * c.tokens * c.shape.hidden;
  const int sets = sets_for(device, c, layers, scratch + (int64_t{256} << 20));
  if (sets == 0) return line.add("skipped", "one set of weights does not fit the memory");
  MoeRig rig(device, c.shape, c.format, sets, layers, c.tokens);
  rig.set_skew(c.skew);
  const Replays r = replay(device, rig, c, layers, effort, [&](int layer) { rig.prefill(layer, c.tokens, c.hopper); });
  if (!device.error().empty()) return line.add("error", device.error());
  if (effort.once) return line;
  const double h = static_cast<double>(c.shape.hidden), rows = static_cast<double>(c.tokens);
  const double pairs = rows * c.shape.k, i = static_cast<double>(c.shape.width);
  const double flops = 6 * pairs * h * i;
  // Weights, rows of x (for the router and gathered), h and y (written and read), out.
  const double bytes = expected_experts(c) * static_cast<double>(MoeRig::expert_bytes(c.shape, c.format)) +
                       rows * h * (4 + 2 + 4) + pairs * (4 * i + 4 * h);
  // Byte mma takes twice the columns of a bf16 one in its time.
  const double peak = c.hopper ? ceilings.wgmma_flops : c.format.int8 ? 2 * ceilings.mma_flops : ceilings.mma_flops;
  const double by_memory = bytes / ceilings.read_bytes, by_arithmetic = flops / peak;
  const double seconds = median(r.seconds), roofline = std::max(by_memory, by_arithmetic);
  add_times(&line, r, layers, sets);
  line.add("gflop", flops / 1e9).add("mb", bytes / 1e6).add("tflops", flops / seconds / 1e12);
  line.add("bound", by_memory > by_arithmetic ? "memory" : "arithmetic");
  return line.add("roofline_us", roofline * 1e6).add("ratio", roofline / seconds);
}

}  // namespace smoe::bench
