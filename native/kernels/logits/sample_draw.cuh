// The last launch of sample, one block: sorts what was gathered, applies top-k and top-p exactly and draws.
#pragma once

#include "kernels/logits/sample_row.cuh"

namespace smoe::cu {

constexpr int kSortKeys = 4096;  // of a part that is sorted in shared memory

// uniform_at() of decoder/sampler.cc.
SMOE_DEVICE uint64_t sample_mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
SMOE_DEVICE double sample_uniform(const StepInput* step) {
  const uint64_t key = sample_mix((uint64_t{ldg(&step->seed)} + 1) * 0x9e3779b97f4a7c15u);
  const int64_t position = int64_t{ldg(&step->position)} + ldg(&step->tokens);
  return static_cast<double>(sample_mix(key + static_cast<uint64_t>(position) * 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

// Element `pair` of a pass with this stride, and the direction of its run of `size` keys: a bitonic network (Batcher,
// "Sorting networks and their applications", 1968).
template <class Load, class Store>
SMOE_DEVICE void exchange(int64_t pair, int64_t stride, int64_t size, int64_t first, Load load, Store store) {
  const int64_t low = pair / stride * 2 * stride + pair % stride, high = low + stride;
  const uint64_t a = load(low), b = load(high);
  const bool ascending = ((first + low) & size) == 0;
  if ((a > b) != ascending) return;
  store(low, b);
  store(high, a);
}

// Strides below the part's length of runs of `from` to `size` keys, over each part in shared memory.
SMOE_DEVICE void sort_parts(uint64_t* keys, int64_t count, int64_t from, int64_t size, uint64_t* part) {
  const int64_t length = count < kSortKeys ? count : kSortKeys;
  for (int64_t first = 0; first < count; first += length) {
    sync();
    for (int64_t i = tid(); i < length; i += kSampleThreads) sts(part + i, ldg(keys + first + i));
    sync();
    for (int64_t run = from; run <= size; run *= 2) {
      for (int64_t stride = (run < length ? run : length) / 2; stride > 0; stride /= 2) {
        for (int64_t pair = tid(); pair < length / 2; pair += kSampleThreads)
          exchange(
              pair, stride, run, first, [&](int64_t i) { return lds(part + i); },
              [&](int64_t i, uint64_t key) { sts(part + i, key); });
        sync();
      }
    }
    for (int64_t i = tid(); i < length; i += kSampleThreads) stg(keys + first + i, lds(part + i));
  }
  sync();
}

// Ascending, by the whole block. There is room for the next power of two.
SMOE_DEVICE void sort_keys(uint64_t* keys, int64_t count, uint64_t* part) {
  int64_t padded = 1;
  while (padded < count) padded *= 2;
  for (int64_t i = count + tid(); i < padded; i += kSampleThreads) stg(keys + i, kNoCandidate);
  sync();
  sort_parts(keys, padded, 2, padded < kSortKeys ? padded : kSortKeys, part);
  for (int64_t size = 2 * kSortKeys; size <= padded; size *= 2) {
    for (int64_t stride = size / 2; stride >= kSortKeys; stride /= 2) {
      for (int64_t pair = tid(); pair < padded / 2; pair += kSampleThreads)
        exchange(
            pair, stride, size, 0, [&](int64_t i) { return ldg(keys + i); },
            [&](int64_t i, uint64_t key) { stg(keys + i, key); });
      sync();
    }
    sort_parts(keys, padded, size, size, part);
  }
}

struct Reached {
  int64_t at;  // -1: nowhere
  double sum;  // of the weights up to there, or of all
};
struct ReachShared {
  double sums[kSampleWarps];
  int32_t first[kSampleWarps];
};

// The first of `count` elements where the sum of weights, from `sum` on, satisfies reached(sum). By the whole block.
template <class Weight, class Test>
SMOE_DEVICE Reached first_reaching(int64_t count, double sum, ReachShared* shared, Weight weight, Test reached) {
  for (int64_t base = 0; base < count; base += kSampleThreads) {
    const int64_t i = base + tid();
    double up_to = i < count ? weight(i) : 0.0;
    for (int delta = 1; delta < 32; delta *= 2) {
      const double earlier = shfl_up(up_to, delta);
      if (lane() >= delta) up_to += earlier;
    }
    sync();
    if (lane() == 31) sts(shared->sums + warp(), up_to);
    sync();
    for (int w = 0; w < kSampleWarps; ++w) {
      const double all = lds(shared->sums + w);
      if (w < warp()) up_to += all;
    }
    up_to += sum;
    const uint32_t hits = ballot(i < count && reached(up_to));
    if (lane() == 0) sts(shared->first + warp(), hits == 0 ? -1 : static_cast<int32_t>(ffs(hits)) - 1);
    sync();
    int winner = -1;
    for (int w = kSampleWarps - 1; w >= 0; --w) {
      if (lds(shared->first + w) >= 0) winner = 32 * w + lds(shared->first + w);
    }
    // The sum at the winner, or at the last thread, whose element or zero ends the run.
    sync();
    if (tid() == (winner < 0 ? kSampleThreads - 1 : winner)) sts(shared->sums, up_to);
    sync();
    sum = lds(shared->sums);
    if (winner >= 0) return {base + winner, sum};
  }
  return {-1, sum};
}

// A draw from all candidates, by ascending id.
SMOE_DEVICE int64_t draw_from_all(const SampleArgs& args, const SampleRow& row, double uniform, ReachShared* shared) {
  const SampleScratch* const scratch = sample_scratch(args);
  const int chunks = sample_chunks(args.vocab);
  double total = 0, before = 0;
  for (int i = 0; i < chunks; ++i) total += ldg(&scratch->weight[i]);
  const double bound = uniform * total;
  int chunk = 0;
  for (double sum = 0; chunk < chunks - 1; ++chunk) {
    before = sum;
    sum += ldg(&scratch->weight[chunk]);
    if (sum > bound) break;
    before = sum;
  }
  const SampleRange range = sample_chunk(args.vocab, chunk);
  const auto weight = [&](int64_t i) {
    const float logit = ldg(args.logits + range.begin + i);
    return logit > -INFINITY ? row.weight(finite_logit(logit)) : 0.0;
  };
  const int64_t count = range.end - range.begin;
  const Reached found = first_reaching(count, before, shared, weight, [&](double sum) { return sum > bound; });
  // Nowhere, once in 2^50 draws: the chunk's own sum was rounded otherwise.
  return found.at < 0 ? row.token : range.begin + found.at;
}

SMOE_KERNEL(kSampleThreads, 1) sample_draw(SampleArgs args) {
  SMOE_SMEM(uint64_t, part, kSortKeys);
  SMOE_SMEM(ReachShared, shared, 1);
  pdl_wait();
  const SampleRow row = sample_row(args);
  if (row.greedy) {
    if (tid() == 0) stg(args.token, static_cast<int32_t>(row.token));
    return;
  }
  const SampleScratch* const scratch = sample_scratch(args);
  const int64_t gathered = ldg(&scratch->gathered), top_k = ldg(&scratch->top_k);
  const double uniform = sample_uniform(args.step), top_p = static_cast<double>(ldg(&args.step->top_p));
  if (gathered == 0) {
    const int64_t token = draw_from_all(args, row, uniform, shared);
    if (tid() == 0) stg(args.token, static_cast<int32_t>(token));
    return;
  }
  uint64_t* const keys = sample_keys(args);
  sort_keys(keys, gathered, part);
  int64_t count = top_k > 0 ? top_k : gathered;
  bool by_rank = true;
  if (!(top_p < 1)) {
    // Drawn by ascending id: the halves of the keys change places, and are sorted again.
    by_rank = false;
    for (int64_t i = tid(); i < count; i += kSampleThreads) {
      const uint64_t key = ldg(keys + i);
      stg(keys + i, key << 32 | key >> 32);
    }
    sync();
    sort_keys(keys, count, part);
  }
  const auto weight = [&](int64_t i) {
    const uint64_t key = ldg(keys + i);
    return row.weight(logit_of(by_rank ? key : key << 32));
  };
  const auto never = [](double) { return false; };
  double total = 0;
  if (top_k > 0) {
    total = first_reaching(count, 0, shared, weight, never).sum;
  } else {
    for (int chunk = 0; chunk < sample_chunks(args.vocab); ++chunk) total += ldg(&scratch->weight[chunk]);
  }
  if (top_p < 1) {
    const double wanted = total * top_p;
    const Reached kept = first_reaching(count, 0, shared, weight, [&](double sum) { return sum >= wanted; });
    if (kept.at >= 0) count = kept.at + 1;
    total = kept.sum;
  }
  const double bound = uniform * total;
  const Reached drawn = first_reaching(count, 0, shared, weight, [&](double sum) { return sum > bound; });
  if (tid() == 0) {
    const uint64_t key = ldg(keys + (drawn.at < 0 ? count - 1 : drawn.at));
    stg(args.token, static_cast<int32_t>(by_rank ? key & 0xFFFFFFFFu : key >> 32));
  }
}

}  // namespace smoe::cu
