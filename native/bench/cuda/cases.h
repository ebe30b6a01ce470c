// The timed cases. Each returns a line of results, or one with "error" or "skipped".
#pragma once

#include "json.h"
#include "moe_rig.h"
#include "timed.h"

namespace smoe::bench {

// Measured in the run that uses them.
struct Ceilings {
  double read_bytes = 0;   // per second, by our own read kernel
  double mma_flops = 0;    // mma.sync on registers
  double wgmma_flops = 0;  // wgmma with A in registers; 0: this device has none
};

// Two lines: what the memory gives, and what the multiply units give.
std::vector<Json> measure_ceilings(BenchDevice& device, const Effort& effort, Ceilings* out);

struct Case {
  MoeShape shape;
  WeightFormatSpec format;
  int64_t tokens;
  Skew skew = Skew::Uniform;
  bool hopper = false;   // of a prefill
  bool grouped = false;  // of a decode: by grouped GEMMs on mma.sync, instead of the fused launches
};
Json run_decode(BenchDevice& device, const Case& c, const Ceilings& ceilings, const Effort& effort);
Json run_prefill(BenchDevice& device, const Case& c, const Ceilings& ceilings, const Effort& effort);

}  // namespace smoe::bench
