// Quantized weights times int8 activation rows: codes are decoded in registers and multiplied as bytes, exactly, up to
// the end of a scale group; then scaled in f32. An output is one sum over groups in order, whatever m is and whether or
// not w1 is there. The f32 sums stay in `out`, so that every register is left for the integer ones.
#pragma once

#include "kernels/experts/codes-inl.h"
#include "kernels/experts/tile-inl.h"

namespace {

// Further ahead than kPrefetchBytes: tiles are 2 to 8 times smaller, and a stretch of bytes is used up later.
constexpr int kInt8PrefetchBytes = 2048;

inline V load_plane(const void* plane, int64_t group, smoe::PlaneType type) {
  const int64_t at = group * 16;
  if (type == smoe::PlaneType::F16) return v_load_f16(static_cast<const uint16_t*>(plane) + at);
  if (type == smoe::PlaneType::Bf16) return v_load_bf16(static_cast<const uint16_t*>(plane) + at);
  return v_load(static_cast<const float*>(plane) + at);
}

// The tiles of one call as arrays, and a row range inside the block.
template <int T>
struct TileSet {
  const unsigned char* w[T];
  const void* s[T];
  const void* z[T];
  float mul[T];
  explicit TileSet(const smoe::TileArgs& args, bool second = false) {
    for (int t = 0; t < T; ++t) {
      const bool one = second || t == 1;
      w[t] = static_cast<const unsigned char*>(one ? args.w1 : args.w0);
      s[t] = one ? args.s1 : args.s0;
      z[t] = one ? args.z1 : args.z0;
      mul[t] = one ? args.mul1 : args.mul0;
    }
  }
};

// Codes above 127, which do not fit a signed byte.
template <class Codes>
constexpr bool kFullCodes = Codes::kMaxCode > 127;

template <class Codes, int M, int T, int S = 0>
SMOE_INLINE void add_unit(VI (&acc)[2][T][M], const unsigned char* const (&w)[T], const int32_t* x, int64_t stride) {
  if constexpr (S < Codes::kSteps) {
    // Two chains per output while few rows leave the multiplier waiting; integers add up the same in any order.
    constexpr int kChain = M <= 2 ? S % 2 : 0;
    VI codes[T];
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) codes[t] = Codes::template code<S>(w[t]);
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) {
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) {
        acc[kChain][t][r] = kFullCodes<Codes> ? v_dot8_full(acc[kChain][t][r], codes[t], x[r])
                                              : v_dot8(acc[kChain][t][r], codes[t], x[r]);
      }
    }
    add_unit<Codes, M, T, S + 1>(acc, w, x + stride, stride);
  }
}

#if defined(SMOE_SUM16)
// Without a byte dot product, widening pairs of products to 32 bits costs as much as multiplying. Narrow codes are
// summed in 16 bits first: a pair is at most 2 * 127 * kMaxCode, so this many units stay within 32767. 0: none does.
template <class Codes>
constexpr int kSum16Units = 32767 / (2 * 127 * Codes::kMaxCode) / Codes::kSteps;

template <class Codes, int M, int T, bool kFirst, int S = 0>
SMOE_INLINE void add_unit16(VI (&sum)[T][M], const unsigned char* const (&w)[T], const int32_t* x, int64_t stride) {
  if constexpr (S < Codes::kSteps) {
    VI codes[T];
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) codes[t] = Codes::template code<S>(w[t]);
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) {
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) {
        const VI pairs = v_pairs8(codes[t], x[r]);
        sum[t][r] = kFirst && S == 0 ? pairs : v_add16(sum[t][r], pairs);
      }
    }
    add_unit16<Codes, M, T, kFirst, S + 1>(sum, w, x + stride, stride);
  }
}
#endif

template <class Codes, int T>
SMOE_INLINE void prefetch_unit(const TileSet<T>& tiles) {
  SMOE_UNROLL
  for (int t = 0; t < T; ++t) {
    SMOE_UNROLL
    for (int line = 0; line < Codes::kBytes; line += 64) v_prefetch(tiles.w[t] + kInt8PrefetchBytes + line);
  }
}

// acc += `units` units of the tiles times M rows; w and x move on.
template <class Codes, int M, int T>
SMOE_INLINE void add_units(VI (&acc)[2][T][M], TileSet<T>* tiles, const int32_t** x, int64_t stride, int64_t units) {
  const auto next = [&] {
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) tiles->w[t] += Codes::kBytes;
    *x += Codes::kSteps * stride;
  };
#if defined(SMOE_SUM16)
  if constexpr (kSum16Units<Codes> > 0) {
    while (units > 0) {
      const int64_t stretch = units < kSum16Units<Codes> ? units : kSum16Units<Codes>;
      VI sum[T][M];
      prefetch_unit<Codes>(*tiles);
      add_unit16<Codes, M, T, true>(sum, tiles->w, *x, stride);
      next();
      for (int64_t unit = 1; unit < stretch; ++unit) {
        prefetch_unit<Codes>(*tiles);
        add_unit16<Codes, M, T, false>(sum, tiles->w, *x, stride);
        next();
      }
      SMOE_UNROLL
      for (int r = 0; r < M; ++r) {
        SMOE_UNROLL
        for (int t = 0; t < T; ++t) acc[0][t][r] = v_add_int(acc[0][t][r], v_widen16(sum[t][r]));
      }
      units -= stretch;
    }
    return;
  }
#endif
  for (; units > 0; --units) {
    prefetch_unit<Codes>(*tiles);
    add_unit<Codes, M, T>(acc, tiles->w, *x, stride);
    next();
  }
}

template <bool Zeros, int M, int T>
SMOE_INLINE void add_group(const VI (&acc)[2][T][M], const TileSet<T>& tiles, const smoe::TileArgs& args, int64_t group,
                           const float* x_scale, const int32_t* x_sum, bool fresh, float* out) {
  V scale[T], zero[T];
  SMOE_UNROLL
  for (int t = 0; t < T; ++t) {
    scale[t] = v_mul(load_plane(tiles.s[t], group, args.scale_type), v_set(tiles.mul[t]));
    if (Zeros) zero[t] = load_plane(tiles.z[t], group, args.zero_type);
  }
  SMOE_UNROLL
  for (int r = 0; r < M; ++r) {
    const V row_scale = v_set(x_scale[r]);
    SMOE_UNROLL
    for (int t = 0; t < T; ++t) {
      V value = v_from_int(M <= 2 ? v_add_int(acc[0][t][r], acc[1][t][r]) : acc[0][t][r]);
      if (Zeros) value = v_fma(zero[t], v_set(-static_cast<float>(x_sum[r])), value);
      float* to = out + r * smoe::kOutStride + 16 * t;
      v_store(to, v_fma(v_mul(value, scale[t]), row_scale, fresh ? v_zero() : v_load(to)));
    }
  }
}

template <class Codes, int M, int T>
void run_codes(TileSet<T> tiles, const smoe::TileArgs& args, int row, float* out) {
  const int32_t* x = static_cast<const int32_t*>(args.x) + row;
  const int64_t stride = args.m;
  const int zero = kFullCodes<Codes> && kShiftedFull ? args.zero - 128 : args.zero;
  int64_t left = args.chunks;
  for (int64_t group = 0; group < args.groups; ++group) {
    const float* x_scale = args.x_scale + group * stride + row;
    const int32_t* x_sum = args.x_sum + group * stride + row;
    VI acc[2][T][M];
    SMOE_UNROLL
    for (int r = 0; r < M; ++r) {
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) {
        acc[0][t][r] = v_set_int(-zero * x_sum[r]);
        if (M <= 2) acc[1][t][r] = v_set_int(0);
      }
    }
    const int64_t units = left < args.group_chunks ? left : args.group_chunks;
    left -= units;
    add_units<Codes, M, T>(acc, &tiles, &x, stride, units);
    const bool fresh = group == 0 && !args.accumulate;
    if (args.z0 != nullptr) {
      add_group<true, M, T>(acc, tiles, args, group, x_scale, x_sum, fresh, out);
    } else {
      add_group<false, M, T>(acc, tiles, args, group, x_scale, x_sum, fresh, out);
    }
  }
}

template <class Codes, int M>
void run_code_block(const smoe::TileArgs& args, int row) {
  float* out = args.out + row * smoe::kOutStride;
  if constexpr (M <= kInt8PairRows) {
    if (args.w1 != nullptr) return run_codes<Codes, M, 2>(TileSet<2>(args), args, row, out);
  }
  run_codes<Codes, M, 1>(TileSet<1>(args), args, row, out);
  if (args.w1 != nullptr) run_codes<Codes, M, 1>(TileSet<1>(args, true), args, row, out + 16);
}

template <class Codes, int M = kInt8Rows>
void run_code_rows(const smoe::TileArgs& args, int row, int rows) {
  if constexpr (M > 0) {
    if (rows != M) return run_code_rows<Codes, M - 1>(args, row, rows);
    run_code_block<Codes, M>(args, row);
  }
}

template <class Codes>
void k_tile_int8(const smoe::TileArgs& args) {
  // More rows than the registers hold are two even passes, the second one over a tile that was just read.
  const int passes = (args.m + kInt8Rows - 1) / kInt8Rows;
  for (int pass = 0; pass < passes; ++pass) {
    const int first = args.m * pass / passes;
    run_code_rows<Codes>(args, first, args.m * (pass + 1) / passes - first);
  }
}

}  // namespace
