// Loops that keep one unit of the machine busy, for the ceilings that benchmarks print beside their results.
#pragma once

#include "kernels/experts/tile-inl.h"
#include "kernels/kernel_table.h"

namespace {

// v_max keeps the loads alive without making anything wait: four short chains.
uint32_t k_probe_read(const void* data, int64_t bytes) {
  const float* p = static_cast<const float*>(data);
  V a = v_zero(), b = a, c = a, d = a;
  for (int64_t i = 0; i < bytes; i += 256, p += 64) {
    v_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes);
    v_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 64);
    v_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 128);
    v_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes + 192);
    a = v_max(a, v_load(p));
    b = v_max(b, v_load(p + 16));
    c = v_max(c, v_load(p + 32));
    d = v_max(d, v_load(p + 48));
  }
  return static_cast<uint32_t>(v_max_lane(v_max(v_max(a, b), v_max(c, d))));
}

// Registers: 16 vector registers of AVX2 hold 12 half-chains and the two factors; latency 4 to 6 at one or two
// operations per cycle needs 8 to 12 chains.
#if defined(SMOE_NATIVE_DOT) || defined(__AVX512F__)
constexpr int kChains = 16;
#else
constexpr int kChains = 6;
#endif

// acc*c + 1/2 with c in [0.5, 0.515] stays within [1/2, 32]: no subnormals, and the compiler cannot know the factors.
float k_probe_fma(int64_t rounds, double* flops) {
  volatile float source = 0.5f;
  float lanes[16];  // all different, or the two halves of a V would be computed once
  for (int i = 0; i < 16; ++i) lanes[i] = source + static_cast<float>(i) * 0.001f;
  const V factor = v_load(lanes), other = v_set(source);
  V acc[kChains];
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = v_set(source + static_cast<float>(i));
  for (int64_t n = 0; n < rounds; ++n) {
    SMOE_UNROLL
    for (int i = 0; i < kChains; ++i) acc[i] = v_fma(acc[i], factor, other);
  }
  V sum = v_zero();
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) sum = v_add(sum, acc[i]);
  *flops += static_cast<double>(rounds) * kChains * 32;
  return v_sum(sum);
}

#if defined(SMOE_NATIVE_DOT)
float k_probe_bf16(int64_t rounds, double* flops) {
  volatile uint32_t source = 0x3a833a83u;  // the pair (1e-3, 1e-3)
  const VDot factor = v_set_dot(source), other = v_set_dot(source);
  V acc[kChains];
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = v_set(static_cast<float>(i));
  for (int64_t n = 0; n < rounds; ++n) {
    SMOE_UNROLL
    for (int i = 0; i < kChains; ++i) acc[i] = v_dot(acc[i], factor, other);
  }
  V sum = v_zero();
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) sum = v_add(sum, acc[i]);
  *flops += static_cast<double>(rounds) * kChains * 64;
  return v_sum(sum);
}
#else
constexpr float (*k_probe_bf16)(int64_t, double*) = nullptr;
#endif

// Operands of the byte probes. All different, as above; where products and sums are separate instructions, products of
// operands known to stay would be made once: hence SMOE_FORGET.
struct ProbeCodes {
  unsigned char table[64];
  int32_t x;
  ProbeCodes() {
    volatile int32_t source = 0x01020304;
    x = source;
    for (int i = 0; i < 64; ++i) table[i] = static_cast<unsigned char>((x + i) % 16);
  }
};

float finish_probe(const VI (&acc)[kChains], int64_t steps, double* ops) {
  V sum = v_zero();
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) sum = v_add(sum, v_from_int(acc[i]));
  *ops += static_cast<double>(steps) * kChains * 128;
  return v_sum(sum);
}

float k_probe_int8(int64_t rounds, double* ops) {
  const ProbeCodes operands;
  const unsigned char* codes = operands.table;
  VI acc[kChains];
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = v_set_int(i);
  for (int64_t n = 0; n < rounds; ++n) {
    SMOE_UNROLL
    for (int i = 0; i < kChains; ++i) {
      SMOE_FORGET(codes);
      acc[i] = v_dot8(acc[i], v_load_codes(codes), operands.x);
    }
  }
  return finish_probe(acc, rounds, ops);
}

#if defined(SMOE_SUM16)
// As int8-inl.h multiplies codes of four bits: eight sums of pairs in 16 bits before they are widened. A round is eight
// steps.
float k_probe_int4(int64_t rounds, double* ops) {
  const ProbeCodes operands;
  const unsigned char* codes = operands.table;
  VI acc[kChains];
  SMOE_UNROLL
  for (int i = 0; i < kChains; ++i) acc[i] = v_set_int(i);
  for (int64_t n = 0; n < rounds; ++n) {
    VI sum[kChains];
    SMOE_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = v_set_int(0);
    for (int step = 0; step < 8; ++step) {
      SMOE_UNROLL
      for (int i = 0; i < kChains; ++i) {
        SMOE_FORGET(codes);
        sum[i] = v_add16(sum[i], v_pairs8(v_load_codes(codes), operands.x));
      }
    }
    SMOE_UNROLL
    for (int i = 0; i < kChains; ++i) acc[i] = v_add_int(acc[i], v_widen16(sum[i]));
  }
  return finish_probe(acc, 8 * rounds, ops);
}
#else
constexpr float (*k_probe_int4)(int64_t, double*) = nullptr;
#endif

}  // namespace
