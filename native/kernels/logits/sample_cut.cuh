// The launches of sample that pass over the whole row, a block per chunk: the best candidate; weights and how they are
// spread; then a superset of what top-k and top-p keep, so that one block can sort it.
#pragma once

#include "kernels/logits/sample_row.cuh"

namespace smoe::cu {

SMOE_KERNEL(kSampleThreads, 2) sample_best(SampleArgs args) {
  SMOE_SMEM(uint64_t, bests, kSampleWarps);
  pdl_wait();
  const SampleRange chunk = sample_chunk(args.vocab, bid());
  uint64_t best = kNoCandidate;
  SMOE_UNROLL4
  for (int64_t id = chunk.begin + tid(); id < chunk.end; id += kSampleThreads) {
    const uint64_t key = sample_key(ldg(args.logits + id), id);
    best = key < best ? key : best;
  }
  SMOE_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) {
    const uint64_t other = shfl_xor(best, bits);
    best = other < best ? other : best;
  }
  if (lane() == 0) sts(bests + warp(), best);
  sync();
  if (tid() == 0) {
    for (int w = 0; w < kSampleWarps; ++w) best = lds(bests + w) < best ? lds(bests + w) : best;
    stg(&sample_scratch(args)->best[bid()], best);
  }
  pdl_trigger();
}

// A weight in bin i is at most exp(-i / 4); the last bin holds all that is farther.
SMOE_DEVICE int sample_bin(double distance) {
  return distance < (kSampleBins - 1) / 4.0 ? static_cast<int>(4 * distance) : kSampleBins - 1;
}

SMOE_KERNEL(kSampleThreads, 2) sample_weigh(SampleArgs args) {
  SMOE_SMEM(double, sums, kSampleWarps);
  SMOE_SMEM(int32_t, counts, kSampleBins);
  pdl_wait();
  const SampleRow row = sample_row(args);
  if (row.greedy) return;
  if (tid() < kSampleBins) sts(counts + tid(), int32_t{0});
  sync();
  const SampleRange chunk = sample_chunk(args.vocab, bid());
  double sum = 0;
  for (int64_t id = chunk.begin + tid(); id < chunk.end; id += kSampleThreads) {
    const float logit = ldg(args.logits + id);
    if (!(logit > -INFINITY)) continue;
    const double distance = row.distance(finite_logit(logit));
    sum += exp(-distance);
    atomic_add_shared(counts + sample_bin(distance), int32_t{1});
  }
  sum = block_sum(sum, sums);
  if (tid() == 0) stg(&sample_scratch(args)->weight[bid()], sum);
  if (tid() < kSampleBins) stg(&sample_scratch(args)->count[bid()][tid()], lds(counts + tid()));
  pdl_trigger();
}

// Which of the counted candidates can be kept: bins up to `last`.
struct SampleCut {
  int last;
  int top_k;  // 0: it cuts nothing off
  bool any;
};

// By one warp; counts: of the whole row. Bins are taken until they hold top_k candidates, or until those left out
// weigh, by their bounds, surely less than 1 - top_p. 1e-9 covers the rounding of both.
SMOE_DEVICE SampleCut sample_cut(const SampleArgs& args, const int32_t* counts, double total) {
  constexpr int kMine = kSampleBins / 32;
  int32_t count[kMine], before = 0;
  double beyond[kMine + 1];  // bounds of the bins from mine on
  beyond[kMine] = 0;
  SMOE_UNROLL
  for (int i = kMine - 1; i >= 0; --i) {
    const int bin = kMine * lane() + i;
    count[i] = lds(counts + bin);
    before += count[i];
    beyond[i] = beyond[i + 1] + count[i] * exp(-0.25 * bin);
  }
  double behind = beyond[0];
  int32_t up_to = before;
  for (int delta = 1; delta < 32; delta *= 2) {
    const double later = shfl_down(behind, delta);
    const int32_t earlier = shfl_up(up_to, delta);
    if (lane() + delta < 32) behind += later;
    if (lane() >= delta) up_to += earlier;
  }
  const int32_t candidates = shfl(up_to, 31), k = ldg(&args.step->top_k);
  const double top_p = static_cast<double>(ldg(&args.step->top_p));
  SampleCut cut;
  cut.top_k = k > 0 && k < candidates ? k : 0;
  cut.any = cut.top_k > 0 || top_p < 1;
  const double later = behind - beyond[0];
  int32_t reached = up_to - before;
  int bins = 0;  // that do not suffice
  SMOE_UNROLL
  for (int i = 0; i < kMine; ++i) {
    reached += count[i];
    const bool enough = cut.top_k > 0 ? reached >= cut.top_k : beyond[i + 1] + later <= total * (1 - top_p - 1e-9);
    if (!enough) ++bins;
  }
  for (int bits = 16; bits > 0; bits /= 2) bins += shfl_xor(bins, bits);
  cut.last = bins < kSampleBins ? bins : kSampleBins - 1;
  return cut;
}

SMOE_KERNEL(kSampleThreads, 2) sample_gather(SampleArgs args) {
  SMOE_SMEM(int32_t, counts, kSampleBins);
  SMOE_SMEM(int32_t, earlier, kSampleBins);  // of chunks before this one
  SMOE_SMEM(int32_t, shared, 2);             // last bin, or -1; place of the next key
  pdl_wait();
  const SampleRow row = sample_row(args);
  if (row.greedy) return;
  SampleScratch* const scratch = sample_scratch(args);
  if (tid() < kSampleBins) {
    int32_t all = 0, before = 0;
    for (int chunk = 0; chunk < nblocks(); ++chunk) {
      const int32_t count = ldg(&scratch->count[chunk][tid()]);
      all += count;
      if (chunk < bid()) before += count;
    }
    sts(counts + tid(), all);
    sts(earlier + tid(), before);
  }
  sync();
  if (warp() == 0) {
    double total = 0;
    for (int chunk = 0; chunk < nblocks(); ++chunk) total += ldg(&scratch->weight[chunk]);
    const SampleCut cut = sample_cut(args, counts, total);
    int32_t before = 0, all = 0;
    for (int bin = lane(); bin <= cut.last; bin += 32) {
      before += lds(earlier + bin);
      all += lds(counts + bin);
    }
    for (int bits = 16; bits > 0; bits /= 2) {
      before += shfl_xor(before, bits);
      all += shfl_xor(all, bits);
    }
    if (lane() == 0) {
      sts(shared, cut.any ? cut.last : -1);
      sts(shared + 1, before);
      if (bid() == 0) {
        stg(&scratch->gathered, cut.any ? all : 0);
        stg(&scratch->top_k, cut.top_k);
      }
    }
  }
  sync();
  const int last = lds(shared);
  const SampleRange chunk = sample_chunk(args.vocab, last < 0 ? nblocks() : bid());
  uint64_t* const keys = sample_keys(args);
  for (int64_t id = chunk.begin + tid(); id < chunk.end; id += kSampleThreads) {
    const float logit = ldg(args.logits + id);
    if (!(logit > -INFINITY) || sample_bin(row.distance(finite_logit(logit))) > last) continue;
    // Whatever places they get, they will be sorted.
    stg(keys + atomic_add_shared(shared + 1, int32_t{1}), sample_key(finite_logit(logit), id));
  }
  pdl_trigger();
}

}  // namespace smoe::cu
