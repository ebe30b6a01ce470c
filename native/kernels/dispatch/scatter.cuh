// Dispatch of any number of tokens (specs/cuda-kernels.md 2.7, P2): rows by expert, then token, as dispatch.h. Every
// block adds up the whole histogram by itself, so that blocks neither wait for each other nor touch each other's data,
// and the order of rows cannot depend on the schedule.
#pragma once

#include "kernels/dispatch/histogram_row.cuh"

namespace smoe::cu {

inline size_t histogram_shared_bytes(int64_t experts) { return static_cast<size_t>(experts) * sizeof(int); }

SMOE_KERNEL(kManyThreads, 1) histogram(HistogramArgs args) {
  SMOE_SMEM_DYN(int, counts);
  pdl_wait();
  histogram_row(args.ids, args.tokens, args.slots, args.experts, counts, args.histogram);
  pdl_trigger();
}

// total[e]: rows of the expert; start[e]: those of earlier blocks. Few experts: several threads share the rows of one.
SMOE_DEVICE void sum_histogram(const ScatterArgs& args, int* total, int* start) {
  const int64_t rows = (args.tokens + kRouteManyTokens - 1) / kRouteManyTokens;
  const int columns = args.experts < nthreads() ? args.experts : nthreads();
  const int shares = columns > 0 ? nthreads() / columns : 0;
  for (int e = tid(); e < args.experts; e += nthreads()) {
    sts(total + e, 0);
    sts(start + e, 0);
  }
  sync();
  if (tid() < shares * columns) {
    for (int e = tid() % columns; e < args.experts; e += columns) {
      int all = 0, before = 0;
      SMOE_UNROLL4
      for (int64_t row = tid() / columns; row < rows; row += shares) {
        const int count = ldg(args.histogram + off(row, args.experts) + e);
        all += count;
        before += row < bid() ? count : 0;
      }
      atomic_add_shared(total + e, all);
      atomic_add_shared(start + e, before);
    }
  }
  sync();
}

// start[e] += rows of the experts before e; block 0 writes the offsets. By one warp.
SMOE_DEVICE void add_offsets(const ScatterArgs& args, const int* total, int* start) {
  int base = 0;
  for (int first = 0; first < args.experts; first += 32) {
    const int e = first + lane();
    const int count = e < args.experts ? lds(total + e) : 0;
    int through = count;  // becomes the inclusive sum over lanes
    for (int delta = 1; delta < 32; delta *= 2) {
      const int other = shfl_up(through, delta);
      if (lane() >= delta) through += other;
    }
    if (e < args.experts) {
      sts(start + e, lds(start + e) + base + through - count);
      if (bid() == 0) {
        stg(args.plan.offset + e, base + through - count);
        if (args.plan.expert_counts != nullptr) {
          stg(args.plan.expert_counts + e, ldg(args.plan.expert_counts + e) + static_cast<uint64_t>(count));
        }
      }
    }
    base += shfl(through, 31);
  }
  if (bid() == 0 && lane() == 0) stg(args.plan.offset + args.experts, base);
}

// total, start, tokens of the block as bits: 4 bytes each per expert.
inline size_t scatter_shared_bytes(int64_t experts) { return static_cast<size_t>(experts) * 12; }

// One block per row of the histogram. An expert occurs at most once per token, so that the rank of a pair among the
// block's is the number of earlier tokens in its expert's mask: stable without a sort.
SMOE_KERNEL(kManyThreads, 1) scatter(ScatterArgs args) {
  SMOE_SMEM_DYN(int, total);
  int* const start = total + args.experts;
  uint32_t* const mask = reinterpret_cast<uint32_t*>(start + args.experts);
  pdl_wait();
  for (int e = tid(); e < args.experts; e += nthreads()) sts(mask + e, 0u);
  sum_histogram(args, total, start);
  if (warp() == 0) add_offsets(args, total, start);
  const PairRange pairs = many_pairs(args.tokens, args.slots);
  for (int64_t i = pairs.begin + tid(); i < pairs.end; i += nthreads()) {
    const int id = ldg(args.ids + i), token = static_cast<int>((i - pairs.begin) / args.slots);
    if (id >= 0 && id < args.experts) atomic_or_shared(mask + id, 1u << token);
  }
  sync();
  pdl_trigger();
  for (int64_t i = pairs.begin + tid(); i < pairs.end; i += nthreads()) {
    const int id = ldg(args.ids + i), token = static_cast<int>((i - pairs.begin) / args.slots);
    if (id < 0 || id >= args.experts) {
      stg(args.plan.position + i, -1);
      continue;
    }
    const int row = lds(start + id) + popc(lds(mask + id) & ((1u << token) - 1));
    stg(args.plan.position + i, row);
    stg(args.plan.token + row, bid() * kRouteManyTokens + token);
    stg(args.plan.row_weight + row, ldg(args.weights + i));
  }
}

}  // namespace smoe::cu
