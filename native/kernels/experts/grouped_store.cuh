// From the sums of a grouped GEMM to its outputs, for one warp: sums go through shared memory, so that a lane holds
// eight neighbouring features of one row, which it activates and stores 16 bytes at a time.
#pragma once

#include "kernels/experts/activation.cuh"
#include "kernels/experts/grouped_tiles.cuh"
#include "kernels/norm/planes.cuh"

namespace smoe::cu {

constexpr int kStoreRows = 16;  // per pass

// Floats from a row to the next: 4 mod 16, so that rows 2t of c fragments lie 8 banks apart.
SMOE_HD constexpr int store_pitch(int blocks) { return blocks * kAtomRows + 4; }
SMOE_HD constexpr int store_floats(int blocks) { return kStoreRows * store_pitch(blocks); }

SMOE_DEVICE void load8(const float* shared, float (&v)[8]) {
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const U32x4 four = lds(reinterpret_cast<const U32x4*>(shared) + i);
    SMOE_UNROLL
    for (int j = 0; j < 4; ++j) v[4 * i + j] = bit_cast<float>(four.x[j]);
  }
}

SMOE_DEVICE void add_bias(const float* bias, int64_t left, float (&v)[8]) {
  SMOE_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (i < left) v[i] += ldg(bias + i);
  }
}

// Eight outputs of a row, of which `left` are real.
SMOE_DEVICE void store8(const GroupedGemmArgs& args, int64_t at, int64_t left, bool aligned, float (&v)[8]) {
  if (!aligned) {
    SMOE_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (i >= left) break;
      if (args.out.data != nullptr) {
        store_parts(args.out, at + i, v[i]);
      } else {
        stg(args.out_f32 + at + i, v[i]);
      }
    }
  } else if (args.out.data == nullptr) {
    SMOE_UNROLL
    for (int i = 0; i < 8; i += 4) {
      U32x4 four;
      SMOE_UNROLL
      for (int j = 0; j < 4; ++j) four.x[j] = bit_cast<uint32_t>(v[i + j]);
      stg(reinterpret_cast<U32x4*>(args.out_f32 + at + i), four);
    }
  } else {
    SMOE_UNROLL1
    for (int part = 0; part < args.out.parts; ++part) {
      U32x4 eight;
      SMOE_UNROLL
      for (int i = 0; i < 8; i += 2) {
        eight.x[i / 2] = round_bf16x2(v[i], v[i + 1]);
        v[i] -= to_float(half_of(eight.x[i / 2], 0));
        v[i + 1] -= to_float(half_of(eight.x[i / 2], 1));
      }
      stg(reinterpret_cast<U32x4*>(args.out.data + off(part, args.out.step) + at), eight);
    }
  }
}

// Whether eight outputs from a multiple of eight on are whole 16-byte chunks.
SMOE_DEVICE bool outputs_aligned(const GroupedGemmArgs& args) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(args.out.data) | reinterpret_cast<uintptr_t>(args.out_f32) |
                       static_cast<uintptr_t>(args.out.step * 2);
  return at % 16 == 0 && args.features % 8 == 0;
}

// Row blocks [block, block + kBlocks) of tile.expert times the rows from row0 on, kTiles groups of eight.
// sum(b, t, c): register c of the c fragment of a block and a group. scratch: store_floats(kBlocks) of this warp.
template <int kBlocks, int kTiles, class Sum>
SMOE_DEVICE void store_sums(const GroupedGemmArgs& args, const GroupedTile& tile, int block, int row0, float* scratch,
                            Sum sum) {
  constexpr int kPitch = store_pitch(kBlocks);
  const bool aligned = outputs_aligned(args);
  static_assert((kBlocks & (kBlocks - 1)) == 0, "a power of two");
  const int chunks = kBlocks * (args.glu ? 1 : 2), shift = popc(static_cast<uint32_t>(chunks - 1));  // of 8 outputs
  const int64_t bias0 = off(tile.expert, args.features);
  for (int pass = 0; pass < kTiles / 2; ++pass) {
    const int base = row0 + pass * kStoreRows;
    if (base >= tile.stop) break;
    SMOE_UNROLL
    for (int p = 0; p < kTiles / 2; ++p) {
      if (p != pass) continue;  // registers have no index: one copy of the stores below for each
      SMOE_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        SMOE_UNROLL
        for (int c = 0; c < 8; ++c) {
          const Element at = c_element(lane(), c % 4);
          sts(scratch + (c / 4 * 8 + at.col) * kPitch + b * kAtomRows + at.row, sum(b, 2 * p + c / 4, c % 4));
        }
      }
    }
    sync_warp();
    for (int i = lane(); i < kStoreRows * chunks; i += 32) {
      const int at = i >> shift, chunk = i & (chunks - 1), row = base + at;
      const int64_t feature = off(block, args.glu ? 8 : 16) + chunk * 8, left = args.features - feature;
      if (row >= tile.stop || left <= 0) continue;
      const float* const sums = scratch + at * kPitch + chunk * (args.glu ? 16 : 8);
      const float scale = args.row_scale != nullptr ? ldg(args.row_scale + row) : 1.0f;
      float v[8];
      load8(sums, v);
      SMOE_UNROLL
      for (int j = 0; j < 8; ++j) v[j] *= scale;
      if (args.glu) {
        float up[8];
        load8(sums + 8, up);
        SMOE_UNROLL
        for (int j = 0; j < 8; ++j) up[j] *= scale;
        if (args.gate_bias != nullptr) add_bias(args.gate_bias + bias0 + feature, left, v);
        if (args.bias != nullptr) add_bias(args.bias + bias0 + feature, left, up);
        SMOE_UNROLL
        for (int j = 0; j < 8; ++j) v[j] = activate_glu(args.activation, v[j], up[j]);
      } else {
        if (args.bias != nullptr) add_bias(args.bias + bias0 + feature, left, v);
        if (args.activate) {
          SMOE_UNROLL
          for (int j = 0; j < 8; ++j) v[j] = activate_plain(args.activation.kind, v[j], args.activation.alpha);
        }
      }
      store8(args, off(row, args.features) + feature, left, aligned, v);
    }
    sync_warp();  // the next pass writes what this one read
  }
}

// --- the same for a warpgroup at a time, and for what matters most: bf16 outputs, a plain map or a gated unit.
// Activated sums are rounded in registers and transposed by stmatrix, so that the 4 kBlocks blocks of a warpgroup leave
// as whole rows of 32 kBlocks (gated) or 64 kBlocks features.
constexpr int kGroupStore = 8192;  // bytes of shared memory: two buffers, filled in turn

SMOE_DEVICE bool stores_groups(const GroupedGemmArgs& args) {
  const bool plain = args.glu ? args.activation.kind == Activation::Silu : !args.activate;
  return plain && args.out.data != nullptr && args.out.parts == 1 && args.row_scale == nullptr && outputs_aligned(args);
}

// Where chunk c of row t lies: eight rows of one chunk, and eight chunks of neighbouring rows, in different banks.
template <int chunks>
SMOE_DEVICE int store_place(int t, int c) {
  return (t * chunks + (c ^ (chunks == 4 ? t / 2 % 4 : t % 8))) * 16;
}

template <int kBlocks, int TN, bool glu>
SMOE_DEVICE void store_group_of(const GroupedGemmArgs& args, const GroupedTile& tile, int block, int group,
                                unsigned char* scratch, int* turn, const float (&acc)[kBlocks][TN / 2]) {
  constexpr int kHalves = glu ? 1 : 2, kChunks = 4 * kBlocks * kHalves, kRows = 32 / kBlocks;  // rows of a pass
  constexpr int kMatrices = kRows / 8 * kBlocks * kHalves;                                     // of 8 x 8, one warp's
  static_assert(kRows * kChunks * 16 * 2 <= kGroupStore && kMatrices % 4 == 0, "two buffers, whole stmatrix");
  const int mine = warp() % 4 * kBlocks;
  const uint32_t thread = static_cast<uint32_t>(tid()) % 128;  // unsigned: divided by a shift
  const int64_t bias0 = off(tile.expert, args.features) + off(block + mine, glu ? 8 : 16) + lane() / 4;
  float bias[kBlocks][2];
  SMOE_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    SMOE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float* const from = glu && h == 0 ? args.gate_bias : args.bias;
      const int feature = glu ? 8 * b : 16 * b + 8 * h;
      const bool real = from != nullptr && off(block + mine, glu ? 8 : 16) + lane() / 4 + feature < args.features;
      bias[b][h] = real ? ldg(from + bias0 + feature) : 0.0f;
    }
  }
  const int64_t feature0 = off(block, glu ? 8 : 16);
  SMOE_UNROLL
  for (int pass = 0; pass < TN / kRows; ++pass) {
    const int row0 = tile.row0 + pass * kRows;
    if (row0 >= tile.stop) break;
    unsigned char* const buffer = scratch + *turn * (kGroupStore / 2);
    *turn ^= 1;
    SMOE_UNROLL
    for (int q = 0; q < kMatrices / 4; ++q) {
      uint32_t value[4];
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int h = (4 * q + i) % kHalves, b = (4 * q + i) / kHalves % kBlocks, t = (4 * q + i) / kHalves / kBlocks;
        const float* const sums = acc[b] + 4 * (pass * (kRows / 8) + t);
        float v[2];
        SMOE_UNROLL
        for (int j = 0; j < 2; ++j) {
          v[j] = glu ? activate_silu(args.activation, sums[j] + bias[b][0], sums[2 + j] + bias[b][1])
                     : sums[2 * h + j] + bias[b][h];
        }
        value[i] = round_bf16x2(v[0], v[1]);
      }
      const int i = 4 * q + lane() / 8;
      const int h = i % kHalves, b = i / kHalves % kBlocks, t = i / kHalves / kBlocks;
      stmatrix_x4_trans(buffer + store_place<kChunks>(8 * t + lane() % 8, (mine + b) * kHalves + h), value);
    }
    bar(1 + group, 128);  // what the last pass but one read lies behind the last pass's
    SMOE_UNROLL
    for (uint32_t i = 0; i < kRows * kChunks; i += 128) {
      const int t = static_cast<int>((i + thread) / kChunks), c = static_cast<int>((i + thread) % kChunks);
      const int64_t feature = feature0 + 8 * c;
      if (row0 + t >= tile.stop || feature >= args.features) continue;
      stg(reinterpret_cast<U32x4*>(args.out.data + off(row0 + t, args.features) + feature),
          lds(reinterpret_cast<const U32x4*>(buffer + store_place<kChunks>(t, c))));
    }
  }
}

// Row blocks [block, block + 4 kBlocks) of tile.expert times all TN rows of the tile. group: of warps, counted by
// barriers from 1 on. scratch: kGroupStore bytes of this warpgroup. turn: 0 before the first tile.
template <int kBlocks, int TN>
SMOE_DEVICE void store_group(const GroupedGemmArgs& args, const GroupedTile& tile, int block, int group,
                             unsigned char* scratch, int* turn, const float (&acc)[kBlocks][TN / 2]) {
  if (args.glu) {
    store_group_of<kBlocks, TN, true>(args, tile, block, group, scratch, turn, acc);
  } else {
    store_group_of<kBlocks, TN, false>(args, tile, block, group, scratch, turn, acc);
  }
}

}  // namespace smoe::cu
