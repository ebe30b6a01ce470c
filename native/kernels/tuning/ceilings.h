// What this machine can do at best, measured: the figures that a benchmark prints its results against.
#pragma once

#include "core/cancel.h"
#include "core/status.h"
#include "core/thread_pool.h"

namespace smoe {

struct Ceilings {
  int threads = 0;                            // that took part: 1 when the pool was busy with another operation
  double dram_read_gbs = 0, l3_read_gbs = 0;  // 1e9 bytes per second, all threads together; l3 0 = unknown cache sizes
  double fma_gflops = 0, bf16_gflops = 0;     // bf16 = fma where there is no bf16 dot product
  double int8_gops = 0;                       // byte dot products, two operations per product
  double int4_gops = 0;                       // the same of codes of at most four bits
};

// About one second, under the active kernel table. Best of several laps each: a ceiling is what nothing disturbed.
Status measure_ceilings(ThreadPool& pool, int threads, const CancelFlag* cancel, Ceilings* out);

}  // namespace smoe
