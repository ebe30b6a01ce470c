// The inner loop of every linear map: one or two P16 tiles times up to kMaxRows packed activation rows, all
// accumulators in registers. An output is one sequential sum over k whatever m is and whether or not w1 is there, so
// that a row's bits do not depend on its batch.
#pragma once

#include "kernels/kernel_table.h"
#if defined(SMOE_NATIVE_DOT)
#include "kernels/isa/dot-inl.h"
#endif

namespace {

#if defined(__GNUC__)
#define SMOE_INLINE inline __attribute__((always_inline))
#define SMOE_UNROLL _Pragma("GCC unroll 16")
// The compiler no longer knows where this pointer points: what is read through it is loaded a second time instead of
// being kept in registers that the accumulators need.
#define SMOE_FORGET(pointer) __asm__("" : "+r"(pointer))
#else
#define SMOE_INLINE inline
#define SMOE_UNROLL
#define SMOE_FORGET(pointer) (void)0
#endif

// What one chunk adds to T tiles x M rows, for each pair of weight and activation types.
struct StepF32 {
  using X = float;
  static constexpr int kWords = 1;  // words of packed x per row and chunk
  template <int M, int T>
  static SMOE_INLINE void add(V (&acc)[T][M], const unsigned char* const (&w)[T], const X* x) {
    V a[T];
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) a[t] = v_load(reinterpret_cast<const float*>(w[t]));
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) {
      const V b = v_set(x[r]);
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) acc[t][r] = v_fma(a[t], b, acc[t][r]);
    }
  }
};

template <bool Odd>
SMOE_INLINE V half_of(VPair pair) {
  return Odd ? pair.odd : pair.even;
}

// Again: this chunk's other half was read just before.
template <bool Odd, bool Again, int M, int T, class Rows>
SMOE_INLINE void add_half(V (&acc)[T][M], const unsigned char* const (&w)[T], Rows x_of) {
  V a[T];
  SMOE_UNROLL
  for (int t = 0; t < T; ++t) {
    const unsigned char* p = w[t];
    if constexpr (Again) SMOE_FORGET(p);
    a[t] = half_of<Odd>(v_load_pairs(p));
  }
  SMOE_UNROLL
  for (int r = 0; r < M; ++r) {
    const V b = x_of(r);
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) acc[t][r] = v_fma(a[t], b, acc[t][r]);
  }
}

struct StepBf16Exact {
  using X = float;
  static constexpr int kWords = 2;
  template <int M, int T>
  static SMOE_INLINE void add(V (&acc)[T][M], const unsigned char* const (&w)[T], const X* x) {
    add_half<false, false, M, T>(acc, w, [x](int r) { return v_set(x[r]); });
    add_half<true, true, M, T>(acc, w, [x](int r) { return v_set(x[M + r]); });
  }
};

struct StepBf16Fast {
  using X = uint32_t;
  static constexpr int kWords = 1;
  template <int M, int T>
  static SMOE_INLINE void add(V (&acc)[T][M], const unsigned char* const (&w)[T], const X* x) {
#if defined(SMOE_NATIVE_DOT)
    VDot a[T];
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) a[t] = v_load_dot(w[t]);
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) {
      const VDot b = v_set_dot(x[r]);
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) acc[t][r] = v_dot(acc[t][r], a[t], b);
    }
#else
    // The same bits as the instruction: it adds the odd product first, then the even one, each rounded once; and since
    // a product of two bf16 values is exact in f32, it does not matter whether v_fma fuses.
    const X* again = x;
    SMOE_FORGET(again);
    add_half<true, false, M, T>(acc, w, [x](int r) { return v_set_pair(x[r]).odd; });
    add_half<false, true, M, T>(acc, w, [again](int r) { return v_set_pair(again[r]).even; });
#endif
  }
};

template <class Step, int M, int T>
void run_tiles(const unsigned char* const (&tiles)[T], const smoe::TileArgs& args, float* out) {
  const typename Step::X* p = static_cast<const typename Step::X*>(args.x);
  const unsigned char* w[T];
  V acc[T][M];
  SMOE_UNROLL
  for (int t = 0; t < T; ++t) {
    w[t] = tiles[t];
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) acc[t][r] = v_zero();
  }
  if (args.accumulate) {
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) {
      SMOE_UNROLL
      for (int r = 0; r < M; ++r) acc[t][r] = v_load(out + r * smoe::kOutStride + 16 * t);
    }
  }
  for (int64_t c = 0; c < args.chunks; ++c) {
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) v_prefetch(w[t] + kPrefetchBytes);
    Step::template add<M, T>(acc, w, p);
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) w[t] += 64;
    p += M * Step::kWords;
  }
  SMOE_UNROLL
  for (int t = 0; t < T; ++t) {
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) v_store(out + r * smoe::kOutStride + 16 * t, acc[t][r]);
  }
}

template <class Step, int M>
void run_rows(const smoe::TileArgs& args) {
  const unsigned char* w0 = static_cast<const unsigned char*>(args.w0);
  const unsigned char* w1 = static_cast<const unsigned char*>(args.w1);
  if constexpr (M <= kPairRows) {
    if (w1 != nullptr) return run_tiles<Step, M, 2>({w0, w1}, args, args.out);
  }
  run_tiles<Step, M, 1>({w0}, args, args.out);
  if (w1 != nullptr) run_tiles<Step, M, 1>({w1}, args, args.out + 16);
}

template <class Step, int M = kMaxRows>
void run_tile(const smoe::TileArgs& args) {
  if constexpr (M > 0) {
    if (args.m != M) return run_tile<Step, M - 1>(args);
    run_rows<Step, M>(args);
  }
}

void k_tile_bf16_exact(const smoe::TileArgs& args) { run_tile<StepBf16Exact>(args); }
void k_tile_bf16_fast(const smoe::TileArgs& args) { run_tile<StepBf16Fast>(args); }
void k_tile_f32(const smoe::TileArgs& args) { run_tile<StepF32>(args); }

}  // namespace
