// Quantized weights times int8 activation rows: codes are decoded in registers and multiplied as bytes, exactly, up to
// the end of a scale group; then scaled in f32. An output is one sum over groups in order, whatever m is and whether or
// not w1 is there. The f32 sums stay in `out`, so that every register is left for the integer ones.
#pragma once

#include "kernels/experts/codes-inl.h"
#include "kernels/experts/tile-inl.h"

namespace {

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
        acc[kChain][t][r] =
            Codes::kFull ? v_dot8_full(acc[kChain][t][r], codes[t], x[r]) : v_dot8(acc[kChain][t][r], codes[t], x[r]);
      }
    }
    add_unit<Codes, M, T, S + 1>(acc, w, x + stride, stride);
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
  const int zero = Codes::kFull && kShiftedFull ? args.zero - 128 : args.zero;
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
    int64_t units = left < args.group_chunks ? left : args.group_chunks;
    left -= units;
    for (; units > 0; --units) {
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) {
        SMOE_UNROLL
        for (int line = 0; line < Codes::kBytes; line += 64) v_prefetch(tiles.w[t] + kPrefetchBytes + line);
      }
      add_unit<Codes, M, T>(acc, tiles.w, x, stride);
      SMOE_UNROLL
      for (int t = 0; t < T; ++t) tiles.w[t] += Codes::kBytes;
      x += Codes::kSteps * stride;
    }
    const bool fresh = group == 0 && !args.accumulate;
    if (args.z0 != nullptr) {
      add_group<true, M, T>(acc, tiles, args, group, x_scale, x_sum, fresh, out);
    } else {
      add_group<false, M, T>(acc, tiles, args, group, x_scale, x_sum, fresh, out);
    }
  }
}

// Rows are taken kInt8Rows at a time and the rest in powers of two: fewer copies of the loop, and a tile that was just
// read is read again from the nearest cache.
template <class Codes, int M = kInt8Rows>
void run_code_rows(const smoe::TileArgs& args, int row) {
  const int left = args.m - row;
  if (left == 0) return;
  if constexpr (M > 1) {
    constexpr int kNext = M > 8 ? 8 : M > 6 ? 6 : M > 4 ? 4 : M > 3 ? 3 : M - 1;
    if (left < M) return run_code_rows<Codes, kNext>(args, row);
  }
  float* out = args.out + row * smoe::kOutStride;
  if constexpr (M <= kPairRows) {
    if (args.w1 != nullptr) {
      run_codes<Codes, M, 2>(TileSet<2>(args), args, row, out);
      return run_code_rows<Codes, M>(args, row + M);
    }
  }
  run_codes<Codes, M, 1>(TileSet<1>(args), args, row, out);
  if (args.w1 != nullptr) run_codes<Codes, M, 1>(TileSet<1>(args, true), args, row, out + 16);
  run_code_rows<Codes, M>(args, row + M);
}

template <class Codes>
void k_tile_int8(const smoe::TileArgs& args) {
  run_code_rows<Codes>(args, 0);
}

}  // namespace
