// What the kernels of sample share: the order of candidates, their weights, and the scratch between launches.
#pragma once

#include <float.h>
#include <math.h>

#include "cuda/cu.h"
#include "kernels/logits/logits_args.h"

namespace smoe::cu {

constexpr int kSampleThreads = 512, kSampleWarps = kSampleThreads / 32;
constexpr int kSampleChunks = 64;  // of the row, a block each
constexpr int kSampleBins = 128;   // of distances from the largest logit over the temperature
constexpr uint64_t kNoCandidate = ~uint64_t{0};

// In front of 2 * vocab keys. A chunk's best candidate as logits rank; what the gathering block found.
struct SampleScratch {
  uint64_t best[kSampleChunks];
  double weight[kSampleChunks];
  int32_t count[kSampleChunks][kSampleBins];
  int32_t gathered;  // keys behind the scratch
  int32_t top_k;     // of them that top-k keeps; 0: it keeps all
};
static_assert(sizeof(SampleScratch) <= 65536, "sample_scratch_bytes()");

SMOE_DEVICE SampleScratch* sample_scratch(const SampleArgs& args) { return static_cast<SampleScratch*>(args.scratch); }
SMOE_DEVICE uint64_t* sample_keys(const SampleArgs& args) {
  return reinterpret_cast<uint64_t*>(static_cast<char*>(args.scratch) + 65536);
}

// Chunks of equal size, the last one shorter.
SMOE_HD int sample_chunks(int64_t vocab) {
  const int64_t chunks = (vocab + 4 * kSampleThreads - 1) / (4 * kSampleThreads);
  return static_cast<int>(chunks < kSampleChunks ? chunks : kSampleChunks);
}
struct SampleRange {
  int64_t begin, end;
};
SMOE_DEVICE SampleRange sample_chunk(int64_t vocab, int chunk) {
  const int64_t size = (vocab + sample_chunks(vocab) - 1) / sample_chunks(vocab), begin = chunk * size;
  return {begin < vocab ? begin : vocab, begin + size < vocab ? begin + size : vocab};
}

// Ascending keys are descending logits, then ascending ids. -0 and 0 are the same logit.
SMOE_DEVICE uint64_t sample_key(float logit, int64_t id) {
  if (!(logit > -INFINITY)) return kNoCandidate;  // NaN too
  const uint32_t bits = logit == 0 ? 0 : bit_cast<uint32_t>(logit);
  const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{~ascending} << 32 | static_cast<uint32_t>(id);
}
SMOE_DEVICE float logit_of(uint64_t key) {
  const uint32_t ascending = ~static_cast<uint32_t>(key >> 32);
  return bit_cast<float>((ascending & 0x80000000u) != 0 ? ascending & 0x7FFFFFFFu : ~ascending);
}

// How decoder/sampler.cc ends a row early, or goes on: a token is there for greedy alone.
struct SampleRow {
  int64_t token;  // -1: no candidate
  bool greedy;
  double top, temperature;

  SMOE_DEVICE double distance(float logit) const { return (top - static_cast<double>(logit)) / temperature; }
  SMOE_DEVICE double weight(float logit) const { return exp(-distance(logit)); }
};
SMOE_DEVICE float finite_logit(float logit) { return logit < FLT_MAX ? logit : FLT_MAX; }  // of a candidate

SMOE_DEVICE SampleRow sample_row(const SampleArgs& args) {
  const SampleScratch* const scratch = sample_scratch(args);
  const int chunks = sample_chunks(args.vocab);
  uint64_t best = kNoCandidate;
  for (int i = 0; i < chunks; ++i) {
    const uint64_t other = ldg(&scratch->best[i]);
    best = other < best ? other : best;
  }
  SampleRow row;
  row.token = best == kNoCandidate ? -1 : static_cast<int64_t>(best & 0xFFFFFFFFu);
  const float temperature = ldg(&args.step->temperature);
  row.greedy = row.token < 0 || !(temperature > 0);
  row.top = row.token < 0 ? 0.0 : static_cast<double>(finite_logit(logit_of(best)));
  row.temperature = static_cast<double>(temperature);
  return row;
}

// Every thread ends with the sum: lanes as a tree, warps ascending. sums: [kSampleWarps].
SMOE_DEVICE double block_sum(double value, double* sums) {
  SMOE_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) value += shfl_xor(value, bits);
  sync();  // what an earlier call left has been read
  if (lane() == 0) sts(sums + warp(), value);
  sync();
  double sum = 0;
  for (int w = 0; w < kSampleWarps; ++w) sum += lds(sums + w);
  return sum;
}

}  // namespace smoe::cu
