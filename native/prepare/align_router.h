// A router in 8 bits whose rounding is chosen for what it does to the choice of experts (EAQuant,
// specs/quantization.md 2.6).
#pragma once

#include <cstdint>

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "formats/quantized.h"

namespace smoe {

struct RouterClip {
  double ratio = 1;  // of each row's range
  double kl = 0;     // at it, and without clipping
  double kl_plain = 0;
};

struct RouterAlignment {
  const float* weight = nullptr;  // [experts, hidden]
  const float* bias = nullptr;    // [experts], null without
  int64_t experts = 0, hidden = 0;
  const float* inputs = nullptr;  // [tokens, hidden]
  int64_t tokens = 0;
  int k = 1;     // experts per token
  double r = 0;  // part of the other experts that also count
};
// The clip ratio in [0.35, 1], on a grid of 101, under which an 8-bit router (one asymmetric scale per row) stays
// closest to the exact one: least mean KL(softmax(exact) || softmax(quantized)) over the exact top m experts, m = k +
// floor(r (n - k)). Without tokens the ratio is 1. `matrix` is the router at that ratio.
Status align_router(const RouterAlignment& router, ThreadPool& pool, const CancelFlag* cancel, RouterClip* clip,
                    QuantizedMatrix* matrix);

}  // namespace smoe
