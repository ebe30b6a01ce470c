// Attention of many rows over a bf16 cache on mma.sync (Dao, arXiv:2307.08691; online softmax: Milakov and Gimelshein,
// arXiv:1805.02867). Queries and exponentials are rounded to bf16; the sum of a row is that of the rounded
// exponentials, so that its weights still add up to one.
#pragma once

#include "kernels/attention/prefill_rows.cuh"

namespace smoe::cu {

// RG groups of 16 rows times CG groups of 128 columns of the result, a warp each. The warps of one row group share its
// scores: each makes those of KT / CG keys, all read them from shared memory.
template <int RG, int CG, int KT>
struct PrefillShape {
  static constexpr int kWarps = RG * CG, kThreads = 32 * kWarps, kRows = 16 * RG;
  static constexpr int kWarpKeys = KT / CG, kTiles = kWarpKeys / 8;
  static constexpr int kWeightStride = KT + 8;
  static_assert(kPageTokens % KT == 0, "a tile of keys lies in one page");
};

// Rows of shared memory are an odd multiple of 16 bytes: the eight rows of an ldmatrix meet no bank twice.
SMOE_HD constexpr int round_up16(int n) { return (n + 15) / 16 * 16; }
SMOE_HD constexpr int row_stride(int dim) { return round_up16(dim) + 8; }

template <class S, int KT>
size_t prefill_shared_bytes(const AttendArgs& args) {
  const int keys = row_stride(args.cache.key_dim), values = args.cache.value_dim == 0 ? 0 : row_stride(args.value_dim);
  return static_cast<size_t>(S::kRows * (keys + S::kWeightStride) + KT * (keys + values)) * sizeof(bf16) +
         static_cast<size_t>(S::kWarps * 16) * sizeof(float);
}

// `keys` rows of `dim` elements into shared memory, zeros outside [low, high) and past dim. Lanes share a row evenly.
template <int warps>
SMOE_DEVICE void load_rows(bf16* to, const bf16* from, int keys, int dim, int low, int high, bool aligned) {
  const int chunks = round_up16(dim) / 8, stride = row_stride(dim);
  const int shift = chunks > 16 ? 5 : chunks > 8 ? 4 : chunks > 4 ? 3 : chunks > 2 ? 2 : 1;
  for (int key = (warp() << (5 - shift)) + (lane() >> shift); key < keys; key += warps << (5 - shift)) {
    const bool real = key >= low && key < high;
    const bf16* const row = from + off(key, dim);
    for (int chunk = lane() & ((1 << shift) - 1); chunk < chunks; chunk += 1 << shift) {
      const int at = 8 * chunk;
      bf16* const place = to + key * stride + at;
      if (aligned) {
        cp16(place, real && at < dim ? row + at : from, real && at < dim);
      } else {
        for (int i = 0; i < 8; ++i) sts(place + i, real && at + i < dim ? ldg(row + at + i) : bf16{0});
      }
    }
  }
}

// The block's queries as bf16; zeros for rows that are none.
SMOE_DEVICE void load_queries(const AttendArgs& args, const RowBlock& block, int rows, int warps, bf16* q) {
  const int dim = args.cache.key_dim, width = round_up16(dim), stride = row_stride(dim);
  const bool pairs = (args.q_stride | dim) % 2 == 0;
  for (int row = warp(); row < rows; row += warps) {
    const bool real = block.real(row);
    const int64_t first = off(block.token0 + block.token_of(row), args.q_stride) + off(block.head_of(row), dim);
    for (int at = 2 * lane(); at < width; at += 64) {
      float two[2] = {0, 0};
      if (real && pairs && at < dim) {
        const U32x2 read = ldg(reinterpret_cast<const U32x2*>(args.q + first + at));
        two[0] = bit_cast<float>(read.x[0]);
        two[1] = bit_cast<float>(read.x[1]);
      } else if (real) {
        for (int i = 0; i < 2; ++i) two[i] = at + i < dim ? ldg(args.q + first + at + i) : 0.0f;
      }
      sts(reinterpret_cast<uint32_t*>(q + row * stride + at), round_bf16x2(two[0], two[1]));
    }
  }
}

// Scores of 16 rows with kTiles * 8 keys.
template <int kTiles>
SMOE_DEVICE void score_tile(const bf16* q, const bf16* keys, int dim, float (&s)[kTiles][4]) {
  const int stride = row_stride(dim);
  const bf16* const a_row = q + lane() % 16 * stride + lane() / 16 * 8;
  const bf16* const b_row = keys + (lane() / 16 * 8 + lane() % 8) * stride + lane() / 8 % 2 * 8;
  for (int k = 0; k < dim; k += 16) {
    uint32_t a[4];
    ldmatrix_x4(a, a_row + k);
    if constexpr (kTiles == 1) {
      uint32_t b[2];
      ldmatrix_x2(b, keys + lane() % 8 * stride + lane() / 8 % 2 * 8 + k);
      mma_bf16(s[0], a, b);
    } else {
      SMOE_UNROLL
      for (int tile = 0; tile < kTiles; tile += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, b_row + tile * 8 * stride + k);
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        mma_bf16(s[tile], a, b0);
        mma_bf16(s[tile + 1], a, b1);
      }
    }
  }
}

// What a lane knows of its rows lane / 4 and lane / 4 + 8 of the warp's sixteen. Scores are in units of log 2.
struct LaneRows {
  int token[2];
  Visible sees[2];
  float top[2], total[2];
};

// Sums of a row group's 128 columns of one tile: acc += weights * values.
template <int KT>
SMOE_DEVICE void add_tile(const bf16* a_row, const bf16* b_row, int stride, int columns, float (&acc)[16][4]) {
  SMOE_UNROLL
  for (int k = 0; k < KT; k += 16) {
    uint32_t a[4];
    ldmatrix_x4(a, a_row + k);
    SMOE_UNROLL
    for (int n = 0; n < 16; n += 2) {
      if (8 * n >= columns) break;
      uint32_t r[4];
      ldmatrix_x4_trans(r, b_row + k * stride + 8 * n);
      const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
      mma_bf16(acc[n], a, b0);
      mma_bf16(acc[n + 1], a, b1);
    }
  }
}

// Whether a tile of values, from this warp's first column on, holds an infinity or NaN.
SMOE_DEVICE bool tile_unbounded(const bf16* values, int keys, int stride, int columns) {
  bool found = false;
  for (int i = lane(); i < keys * 16; i += 32) {
    if (i % 16 * 8 >= columns) continue;
    const U32x4 eight = lds(reinterpret_cast<const U32x4*>(values + i / 16 * stride + i % 16 * 8));
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j)
      found = found || (eight.x[j] & 0x7F80u) == 0x7F80u || (eight.x[j] & 0x7F800000u) == 0x7F800000u;
  }
  return any(found);
}

// add_tile for a tile that not every row sees whole and that holds an infinity or NaN: a weight of 0 does not shield a
// row from one of a later token. Every token of the warp's rows takes the values of its own keys alone; for the others
// the result is the same, to the bit. from: the position of the first key.
template <int KT>
SMOE_DEVICE void add_tile_apart(const bf16* a_row, const bf16* b_row, int stride, int columns, const RowBlock& block,
                                int64_t window, const LaneRows& rows, int64_t from, float (&acc)[16][4]) {
  const int first = shfl(rows.token[0], 0), last = shfl(rows.token[1], 31);
  for (int token = first; token <= last; ++token) {
    const Visible sees = visible_of(block, token, window);
    for (int k = 0; k < KT; k += 16) {
      uint32_t a[4], mask[2] = {0, 0};
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int64_t key = from + k + b16_element(lane(), i / 2, i % 2).row;
        if (key >= sees.begin && key < sees.end) mask[i / 2] |= 0xFFFFu << (16 * (i % 2));
      }
      ldmatrix_x4(a, a_row + k);
      SMOE_UNROLL
      for (int n = 0; n < 16; n += 2) {
        if (8 * n >= columns) break;
        uint32_t r[4];
        ldmatrix_x4_trans(r, b_row + k * stride + 8 * n);
        SMOE_UNROLL
        for (int half = 0; half < 2; ++half) {
          const uint32_t b[2] = {r[2 * half] & mask[0], r[2 * half + 1] & mask[1]};
          float sum[4] = {acc[n + half][0], acc[n + half][1], acc[n + half][2], acc[n + half][3]};
          mma_bf16(sum, a, b);
          SMOE_UNROLL
          for (int i = 0; i < 4; ++i) acc[n + half][i] = rows.token[i / 2] == token ? sum[i] : acc[n + half][i];
        }
      }
    }
  }
}

constexpr float kLog2E = 1.44269504088896340736f;

template <int RG, int CG, int KT>
SMOE_KERNEL(32 * RG * CG, 2)
prefill_mma(AttendArgs args) {
  using S = PrefillShape<RG, CG, KT>;
  SMOE_SMEM_DYN(bf16, shared);
  pdl_wait();
  const RowBlock block = row_block(args, S::kRows);
  if (block.tokens == 0) return;
  const int dim = args.cache.key_dim, stride = row_stride(dim), group = warp() / CG, column_group = warp() % CG;
  const bool latent = args.cache.value_dim == 0;
  bf16* const q = shared;
  bf16* const weights = q + S::kRows * stride;
  bf16* const keys = weights + S::kRows * S::kWeightStride;
  bf16* const values = latent ? keys : keys + KT * stride;
  const int value_stride = latent ? stride : row_stride(args.value_dim);
  float* const shares = reinterpret_cast<float*>(latent ? keys + KT * stride : values + KT * value_stride);
  const bool aligned = args.cache.layer_offset % 16 == 0;
  const int64_t first = block.low / KT, stop = (block.high - 1) / KT + 1;
  const auto load_keys = [&](bf16* part, int64_t tile) {
    const int64_t at = tile * KT;
    const int low = static_cast<int>(block.low > at ? block.low - at : 0);
    const int high = static_cast<int>(block.high - at < KT ? block.high - at : KT);
    load_rows<S::kWarps>(keys, key_row(args.cache, part, block.kv_head, static_cast<int>(at % kPageTokens)), KT, dim,
                         low, high, aligned && dim % 8 == 0);
  };
  bf16* part = kv_part<bf16>(args.cache, first * KT / kPageTokens);
  load_keys(part, first);
  cp_commit();
  load_queries(args, block, S::kRows, S::kWarps, q);
  LaneRows rows;
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    rows.token[i] = block.token_of(16 * group + lane() / 4 + 8 * i);
    rows.sees[i] = visible_of(block, rows.token[i], args.window);
    rows.top[i] = -INFINITY;
    rows.total[i] = 0;
  }
  const int columns = args.value_dim - 128 * column_group;  // of this warp, at most 128
  float acc[16][4] = {};
  for (int64_t tile = first; tile < stop; ++tile) {
    const int64_t at = tile * KT;
    bf16* const next = tile + 1 < stop ? kv_part<bf16>(args.cache, (at + KT) / kPageTokens) : part;
    cp_wait<0>();
    sync();  // the keys are here, and everybody has left the values
    if (!latent) {
      const int low = static_cast<int>(block.low > at ? block.low - at : 0);
      const int high = static_cast<int>(block.high - at < KT ? block.high - at : KT);
      load_rows<S::kWarps>(values, value_row(args.cache, part, block.kv_head, static_cast<int>(at % kPageTokens)), KT,
                           args.value_dim, low, high, aligned && args.value_dim % 8 == 0);
      cp_commit();
    }
    const bool partly = partly_visible(block, args.window, at, KT);
    float s[S::kTiles][4] = {};
    score_tile<S::kTiles>(q + 16 * group * stride, keys + column_group * S::kWarpKeys * stride, dim, s);
    float top[2] = {-INFINITY, -INFINITY}, factor[2];
    SMOE_UNROLL
    for (int j = 0; j < S::kTiles; ++j) {
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        s[j][i] *= args.scale * kLog2E;
        if (partly) {
          const int64_t key = at + column_group * S::kWarpKeys + 8 * j + c_element(lane(), i).col;
          if (key < rows.sees[i / 2].begin || key >= rows.sees[i / 2].end) s[j][i] = -INFINITY;
        }
        top[i / 2] = fmaxf(top[i / 2], s[j][i]);
      }
    }
    SMOE_UNROLL
    for (int i = 0; i < 2; ++i) {
      top[i] = fmaxf(top[i], shfl_xor(top[i], 1));
      top[i] = fmaxf(top[i], shfl_xor(top[i], 2));
      if constexpr (CG > 1) {
        if (lane() % 4 == 0) sts(shares + (group * CG + column_group) * 16 + lane() / 4 + 8 * i, top[i]);
      }
    }
    if constexpr (CG > 1) bar(1 + group, 32 * CG);
    SMOE_UNROLL
    for (int i = 0; i < 2; ++i) {
      if constexpr (CG > 1) {
        SMOE_UNROLL
        for (int other = 0; other < CG; ++other)
          top[i] = fmaxf(top[i], lds(shares + (group * CG + other) * 16 + lane() / 4 + 8 * i));
      }
      top[i] = fmaxf(top[i], rows.top[i]);
      // A row that has seen nothing yet: 0 in place of -inf, whose differences are NaN.
      const float base = top[i] == -INFINITY ? 0.0f : top[i];
      factor[i] = exp2f(rows.top[i] - base);
      rows.top[i] = top[i];
      top[i] = base;
    }
    float sum[2] = {};
    SMOE_UNROLL
    for (int j = 0; j < S::kTiles; ++j) {
      SMOE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint32_t pair = round_bf16x2(exp2f(s[j][2 * i] - top[i]), exp2f(s[j][2 * i + 1] - top[i]));
        sum[i] += to_float(half_of(pair, 0)) + to_float(half_of(pair, 1));
        bf16* const to = weights + (16 * group + lane() / 4 + 8 * i) * S::kWeightStride + column_group * S::kWarpKeys;
        sts(reinterpret_cast<uint32_t*>(to + 8 * j + 2 * (lane() % 4)), pair);
      }
    }
    SMOE_UNROLL
    for (int i = 0; i < 2; ++i) rows.total[i] = fma(rows.total[i], factor[i], sum[i]);
    if (any(factor[0] != 1 || factor[1] != 1)) {
      SMOE_UNROLL
      for (int n = 0; n < 16; ++n) {
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) acc[n][i] *= factor[i / 2];
      }
    }
    cp_wait<0>();
    sync();  // the values and the weights are here, and everybody has left the keys
    if (!latent && tile + 1 < stop) {
      load_keys(next, tile + 1);
      cp_commit();
    }
    const bf16* const a_row = weights + (16 * group + lane() % 16) * S::kWeightStride + lane() / 16 * 8;
    const bf16* const b_row = values + lane() % 16 * value_stride + lane() / 16 * 8 + column_group * 128;
    if (!partly || !tile_unbounded(values + column_group * 128, KT, value_stride, columns))
      add_tile<KT>(a_row, b_row, value_stride, columns, acc);
    else
      add_tile_apart<KT>(a_row, b_row, value_stride, columns, block, args.window, rows, at, acc);
    part = next;
    if (latent && tile + 1 < stop) {
      sync();
      load_keys(next, tile + 1);
      cp_commit();
    }
  }
  pdl_trigger();
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    rows.total[i] += shfl_xor(rows.total[i], 1);
    rows.total[i] += shfl_xor(rows.total[i], 2);
  }
  if constexpr (CG > 1) {
    sync();
    SMOE_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (lane() % 4 == 0) sts(shares + (group * CG + column_group) * 16 + lane() / 4 + 8 * i, rows.total[i]);
    }
    sync();
    SMOE_UNROLL
    for (int i = 0; i < 2; ++i) {
      rows.total[i] = 0;
      SMOE_UNROLL
      for (int other = 0; other < CG; ++other)
        rows.total[i] += lds(shares + (group * CG + other) * 16 + lane() / 4 + 8 * i);
    }
  }
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = 16 * group + lane() / 4 + 8 * i;
    if (!block.real(row)) continue;
    float factor = 1, total = rows.total[i];
    if (args.sinks != nullptr) {
      const float sink = ldg(args.sinks + block.head_of(row)) * kLog2E, top = fmaxf(rows.top[i], sink);
      factor = exp2f(rows.top[i] - top);
      total = fma(total, factor, exp2f(sink - top));
    }
    factor /= total;
    SMOE_UNROLL
    for (int n = 0; n < 16; ++n) {
      const int column = column_group * 128 + 8 * n + 2 * (lane() % 4);
      if (8 * n >= columns) break;
      // The zero of a tile that a row did not see has a sign; adding 0 takes it away.
      const float two[2] = {fma(acc[n][2 * i], factor, 0.0f), fma(acc[n][2 * i + 1], factor, 0.0f)};
      store_results(args, block.token0 + rows.token[i], block.head_of(row), column, two);
    }
  }
}

}  // namespace smoe::cu
