// MoE blocks, or whole decoders, on a GPU against the ceilings that the same run measured. One JSON object a line on
// stdout, what is worth most first, so that a run that is cut short is useful.
//   cuda_bench [--seconds N] [--quick] [--tiny] [--once] [--shape NAME] [--format NAME] [--tokens N]
//   cuda_bench --decoder [--plugin FILE] [--seconds N] [--tiny] [--shape NAME] [--format NAME]
// A decoder runs in the plug-in, smoe_cuda.so beside this program unless it is named. --once launches every block once,
// untimed and outside a graph, in the order of the lines: for a profiler.
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "cases.h"
#include "decoder_case.h"

namespace smoe::bench {
namespace {

struct Options {
  double seconds = 240;  // of the whole run
  bool quick = false, tiny = false, once = false, decoder = false;
  int64_t tokens = 0;  // 0: every number of the plan
  const char* shape = nullptr;
  const char* format = nullptr;
  std::string plugin;
};

bool parse(int argc, char** argv, Options* out) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--quick") {
      out->quick = true;
    } else if (name == "--tiny") {
      out->tiny = true;
    } else if (name == "--once") {
      out->once = true;
    } else if (name == "--decoder") {
      out->decoder = true;
    } else if (i + 1 < argc && name == "--plugin") {
      out->plugin = argv[++i];
    } else if (i + 1 < argc && name == "--tokens") {
      out->tokens = std::atoll(argv[++i]);
    } else if (i + 1 < argc && name == "--seconds") {
      out->seconds = std::atof(argv[++i]);
    } else if (i + 1 < argc && name == "--shape") {
      out->shape = argv[++i];
    } else if (i + 1 < argc && name == "--format") {
      out->format = argv[++i];
    } else {
      return false;
    }
  }
  return true;
}

std::vector<MoeShape> shapes_of(const Options& options) {
  if (options.tiny) return {{"tiny", 128, 64, 8, 2}};
  std::vector<MoeShape> shapes;
  for (const MoeShape& s : bench_shapes()) {
    if (options.shape == nullptr || std::strcmp(options.shape, s.name) == 0) shapes.push_back(s);
  }
  return shapes;
}

std::string plugin_of(const Options& options, const char* program) {
  if (!options.plugin.empty()) return options.plugin;
  const std::string path = program;
  const size_t slash = path.rfind('/');
  return (slash == std::string::npos ? std::string(".") : path.substr(0, slash)) + "/smoe_cuda.so";
}

std::vector<DecoderCase> decoders(const Options& options) {
  if (options.tiny) {
    const DecoderShape tiny = {{"tiny", 128, 128, 8, 2}, 2, 1, 64, true, 512, 2};
    return {{tiny, "bf16", 70, 5}, {tiny, "w4", 5, 5}};
  }
  std::vector<DecoderCase> cases;
  for (const DecoderShape& shape : decoder_shapes()) {
    if (options.shape != nullptr && std::strcmp(options.shape, shape.moe.name) != 0) continue;
    for (const char* const format : {"bf16", "w4"}) {
      if (options.format != nullptr && std::strcmp(options.format, format) != 0) continue;
      cases.push_back({shape, format});
    }
  }
  return cases;
}

// Decode, then prefill, bf16 first; then the other formats; then skewed routing.
struct Plan {
  std::vector<Case> decode, prefill;
};
std::vector<Plan> plans(const Options& options) {
  const std::vector<MoeShape> shapes = shapes_of(options);
  std::vector<int64_t> few = {1, 8, 64}, many = {512, 4096};
  if (options.tiny) few = {1, 9}, many = {70};
  Plan bf16, coded, skewed;
  for (const WeightFormatSpec& format : bench_formats()) {
    if (options.format != nullptr && std::strcmp(options.format, format.name) != 0) continue;
    Plan& plan = format.format == cu::AtomFormat::Bf16 ? bf16 : coded;
    for (const MoeShape& shape : shapes) {
      for (const int64_t tokens : few) plan.decode.push_back({shape, format, tokens});
      plan.decode.push_back({shape, format, few.back(), Skew::Uniform, false, true});
      for (const int64_t tokens : many) {
        for (const bool hopper : {true, false}) {
          if (!hopper || format.wgmma) plan.prefill.push_back({shape, format, tokens, Skew::Uniform, hopper});
        }
      }
      if (format.format != cu::AtomFormat::Bf16) continue;
      for (const Skew skew : {Skew::Zipf, Skew::SameExperts, Skew::OneHot}) {
        skewed.decode.push_back({shape, format, few.back(), skew});
        skewed.prefill.push_back({shape, format, many.back(), skew, true});
        skewed.prefill.push_back({shape, format, many.back(), skew, false});
      }
    }
  }
  // One expert that every token goes to: the dense tile, routing and all.
  const MoeShape dense = options.tiny ? MoeShape{"dense", 128, 64, 1, 1} : MoeShape{"dense", 4096, 14336, 1, 1};
  for (const bool hopper : {true, false}) {
    bf16.prefill.push_back({dense, bench_formats().front(), many.back(), Skew::Uniform, hopper});
  }
  return options.quick ? std::vector<Plan>{bf16} : std::vector<Plan>{bf16, coded, skewed};
}

// The lines of a run, and the time it has left.
class Run {
 public:
  explicit Run(double seconds) : seconds_(seconds) {}
  void print(const Json& line) {
    std::printf("%s\n", line.text().c_str());
    std::fflush(stdout);
    failures_ += line.text().find("\"error\"") != std::string::npos;
  }
  // Whether a case may begin.
  bool goes_on(const BenchDevice& device) {
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const bool on = !device.lost() && elapsed <= seconds_;
    if (!on) ++left_out_;
    return on;
  }
  int end(const BenchDevice& device) {
    if (left_out_ > 0) {
      const std::string why = device.lost() ? "the device was lost: " + device.error() : "no time left";
      print(Json().add("case", "left out").add("count", left_out_).add("why", why));
    }
    return failures_ == 0 ? 0 : 1;
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double seconds_;
  int failures_ = 0, left_out_ = 0;
};

void run_blocks(BenchDevice& device, const Options& options, const Ceilings& ceilings, const Effort& effort, Run& run) {
  for (const Plan& plan : plans(options)) {
    for (const auto& [cases, measure] :
         {std::pair{&plan.decode, &run_decode}, std::pair{&plan.prefill, &run_prefill}}) {
      for (const Case& c : *cases) {
        if (options.tokens > 0 && c.tokens != options.tokens) continue;
        if (!run.goes_on(device)) continue;
        device.forget_error();
        run.print(measure(device, c, ceilings, effort));
      }
    }
  }
}

int run(const Options& options, const std::string& plugin) {
  Run run(options.seconds);
  BenchDevice device;
  if (!device.error().empty()) {
    std::fprintf(stderr, "no device: %s\n", device.error().c_str());
    return 3;
  }
  Effort effort;
  if (options.quick) effort.seconds = 0.2;
  if (options.tiny) effort = {0, 2, 3, 2, 1 << 16};
  if (options.once) effort.decode_layers = effort.prefill_layers = 2, effort.once = true;
  const cu::CudaDeviceInfo& info = device.info();
  run.print(Json().add("case", "device").add("name", info.name).add("sms", info.sms).add("l2_mb", info.l2 / 1e6));
  Ceilings ceilings;
  if (!options.once) {
    for (const Json& line : measure_ceilings(device, effort, &ceilings)) run.print(line);
  }
  if (!options.decoder) {
    run_blocks(device, options, ceilings, effort, run);
    return run.end(device);
  }
  for (const DecoderCase& c : decoders(options)) {
    if (!run.goes_on(device)) continue;
    for (const Json& line : run_decoder(plugin, c, ceilings)) run.print(line);
  }
  return run.end(device);
}

}  // namespace
}  // namespace smoe::bench

int main(int argc, char** argv) {
  smoe::bench::Options options;
  if (!smoe::bench::parse(argc, argv, &options)) {
    std::fprintf(
        stderr,
        "usage: cuda_bench [--decoder [--plugin FILE]] [--seconds N] [--quick] [--tiny] [--once] [--shape NAME] "
        "[--format NAME] [--tokens N]\n");
    return 2;
  }
  return smoe::bench::run(options, smoe::bench::plugin_of(options, argv[0]));
}
