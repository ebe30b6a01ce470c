// A whole decoder on the device: one sequence, host and all, against the bytes that a token reads.
#pragma once

#include <string>
#include <vector>

#include "cases.h"

namespace smoe::bench {

// The transformer around a MoE block. `layers` are measured, which the line says: a layer of a larger model costs the
// same.
struct DecoderShape {
  MoeShape moe;
  int heads, kv_heads, head_dim;
  bool full_norm;  // of queries and keys over all heads (OLMoE), else by the head
  int64_t vocab;
  int layers;
};
const std::vector<DecoderShape>& decoder_shapes();

struct DecoderCase {
  DecoderShape shape;
  const char* format = "bf16";  // of the experts, or w4
  int64_t prompt = 512;         // tokens before the first that is timed
  int64_t steps = 256;          // timed, one token each, greedy
};

// Two lines, or one with "skipped" or "error". The plug-in at `library` is loaded as the package loads it.
std::vector<Json> run_decoder(const std::string& library, const DecoderCase& c, const Ceilings& ceilings);

}  // namespace smoe::bench
