// Quantized weights times f32 or bf16 activation rows: a stretch of a tile is decoded into a panel that looks like a
// tile of f32 or bf16 weights, and the loop of that format runs over it.
#pragma once

#include "kernels/experts/int8-inl.h"

namespace {

// Columns of a panel: two f32 panels are 16 KiB, half of a small L1.
constexpr int kPanelCols = 128;

// --- decoding a unit into f32 columns (16 rows each)

template <class Codes>
struct IntegerValues {
  static constexpr int kCols = 4 * Codes::kSteps, kBytes = Codes::kBytes;
  V zero, scale;
  IntegerValues(const smoe::TileArgs& args, const void* zeros, int64_t group, V group_scale) : scale(group_scale) {
    zero = v_set(static_cast<float>(args.zero));
    if (zeros != nullptr) zero = v_add(zero, load_plane(zeros, group, args.zero_type));
  }
  template <int S = 0>
  inline void decode(const unsigned char* w, float* panel) const {
    if constexpr (S < Codes::kSteps) {
      const VI codes = Codes::template code<S>(w);
      v_store(panel, value(v_lane_byte<0>(codes)));
      v_store(panel + 16, value(v_lane_byte<1>(codes)));
      v_store(panel + 32, value(v_lane_byte<2>(codes)));
      v_store(panel + 48, value(v_lane_byte<3>(codes)));
      decode<S + 1>(w, panel + 64);
    }
  }
  inline V value(VI code) const { return v_mul(v_sub(v_from_int(code), zero), scale); }
};

struct CodebookValues {
  static constexpr int kCols = 8, kBytes = 64;
  const float* table;
  V scale;
  CodebookValues(const smoe::TileArgs& args, const void*, int64_t, V group_scale)
      : table(codebook_values[codebook_index(args.codebook)]), scale(group_scale) {}
  inline void decode(const unsigned char* w, float* panel) const {
    four(CodesW4::code<0>(w), panel);
    four(CodesW4::code<1>(w), panel + 64);
  }
  inline void four(VI codes, float* panel) const {
    v_store(panel, v_mul(v_lookup_f32(table, v_lane_byte<0>(codes)), scale));
    v_store(panel + 16, v_mul(v_lookup_f32(table, v_lane_byte<1>(codes)), scale));
    v_store(panel + 32, v_mul(v_lookup_f32(table, v_lane_byte<2>(codes)), scale));
    v_store(panel + 48, v_mul(v_lookup_f32(table, v_lane_byte<3>(codes)), scale));
  }
};

// Every E4M3 value is exact in bf16.
struct F8Values {
  static constexpr int kCols = 4, kBytes = 64;
  V scale;
  F8Values(const smoe::TileArgs&, const void*, int64_t, V group_scale) : scale(group_scale) {}
  inline void decode(const unsigned char* w, float* panel) const {
    unsigned char chunk[64];
    const VIPair pairs = ValuesF8(0).pairs<0>(w);
    v_store_codes(chunk, pairs.first);
    two(v_load_pairs(chunk), panel);
    v_store_codes(chunk, pairs.second);
    two(v_load_pairs(chunk), panel + 32);
  }
  inline void two(VPair pair, float* panel) const {
    v_store(panel, v_mul(pair.even, scale));
    v_store(panel + 16, v_mul(pair.odd, scale));
  }
};

// --- panels

// Calls body(group, first unit, units) for stretches of at most kPanelCols columns that lie within one group.
template <class F>
SMOE_INLINE void for_panels(const smoe::TileArgs& args, int unit_cols, F body) {
  const int64_t most = kPanelCols / unit_cols;
  for (int64_t group = 0; group < args.groups; ++group) {
    const int64_t first = group * args.group_chunks;
    const int64_t end = group + 1 == args.groups ? args.chunks : first + args.group_chunks;
    for (int64_t unit = first; unit < end; unit += most) body(group, unit, end - unit < most ? end - unit : most);
  }
}

// The rows' part that a panel of `columns` from `column` on meets, in f32 words per column pair or column.
inline const void* rows_at(const smoe::TileArgs& args, int64_t words) {
  return static_cast<const unsigned char*>(args.x) + words * args.m * 4;
}

template <class Values>
void k_tile_exact(const smoe::TileArgs& args) {
  alignas(64) float panel[2][kPanelCols * 16];
  const TileSet<2> tiles(args);
  smoe::TileArgs part;
  part.w0 = panel[0];
  part.w1 = args.w1 != nullptr ? panel[1] : nullptr;
  part.m = args.m;
  part.out = args.out;
  part.accumulate = args.accumulate;
  for_panels(args, Values::kCols, [&](int64_t group, int64_t unit, int64_t units) {
    for (int t = 0; t < (args.w1 != nullptr ? 2 : 1); ++t) {
      const V scale = v_mul(load_plane(tiles.s[t], group, args.scale_type), v_set(tiles.mul[t]));
      const Values values(args, tiles.z[t], group, scale);
      for (int64_t u = 0; u < units; ++u) {
        const unsigned char* w = tiles.w[t] + (unit + u) * Values::kBytes;
        v_prefetch(w + kPrefetchBytes);
        values.decode(w, panel[t] + u * Values::kCols * 16);
      }
    }
    part.x = rows_at(args, unit * Values::kCols);
    part.chunks = units * Values::kCols;
    run_tile<StepF32>(part);
    part.accumulate = true;
  });
}

// Panels of unscaled values; a group's sum is scaled when it is complete.
template <class Values, int S = 0>
inline void decode_pairs(const Values& values, const unsigned char* w, unsigned char* panel) {
  if constexpr (S < Values::kSteps) {
    const VIPair pairs = values.template pairs<S>(w);
    v_store_codes(panel, pairs.first);
    v_store_codes(panel + 64, pairs.second);
    decode_pairs<Values, S + 1>(values, w, panel + 128);
  }
}

template <class Values>
void k_tile_values_bf16(const smoe::TileArgs& args) {
  constexpr int kCols = 4 * Values::kSteps;
  alignas(64) unsigned char panel[2][kPanelCols * 32];
  alignas(64) float sums[kMaxRows * smoe::kOutStride];
  const TileSet<2> tiles(args);
  const int count = args.w1 != nullptr ? 2 : 1;
  const Values values(args.codebook);
  smoe::TileArgs part;
  part.w0 = panel[0];
  part.w1 = args.w1 != nullptr ? panel[1] : nullptr;
  part.m = args.m;
  part.out = sums;
  for_panels(args, kCols, [&](int64_t group, int64_t unit, int64_t units) {
    for (int t = 0; t < count; ++t) {
      for (int64_t u = 0; u < units; ++u) {
        const unsigned char* w = tiles.w[t] + (unit + u) * Values::kBytes;
        v_prefetch(w + kPrefetchBytes);
        decode_pairs(values, w, panel[t] + u * kCols * 32);
      }
    }
    part.x = rows_at(args, unit * kCols / 2);
    part.chunks = units * kCols / 2;
    part.accumulate = unit != group * args.group_chunks;
    run_tile<StepBf16Fast>(part);
    if (unit + units != args.chunks && (unit + units) % args.group_chunks != 0) return;
    for (int t = 0; t < count; ++t) {
      const V scale = v_mul(load_plane(tiles.s[t], group, args.scale_type), v_set(tiles.mul[t]));
      for (int r = 0; r < args.m; ++r) {
        const int at = r * smoe::kOutStride + 16 * t;
        const V before = group == 0 && !args.accumulate ? v_zero() : v_load(args.out + at);
        v_store(args.out + at, v_fma(v_load(sums + at), scale, before));
      }
    }
  });
}

// --- bit-nested: the 2-bit base, then one-bit planes, each a matrix of its own that is added to `out`. A tile holds
// the base's units and then each plane's; scales likewise.
template <class Base, class Plane>
void run_planes(const smoe::TileArgs& args, Base base, Plane plane) {
  const size_t scale_bytes = static_cast<size_t>(args.groups) * 16 * (args.scale_type == smoe::PlaneType::F32 ? 4 : 2);
  smoe::TileArgs part = args;  // units of 32 columns: two of the base, one of a plane
  part.chunks = 2 * args.chunks;
  part.group_chunks = 2 * args.group_chunks;
  base(part);
  part.chunks = args.chunks;
  part.group_chunks = args.group_chunks;
  part.z0 = part.z1 = nullptr;
  part.zero = 1;
  part.accumulate = true;
  const auto skip = [](const void* p, size_t bytes) -> const void* {
    return p != nullptr ? static_cast<const unsigned char*>(p) + bytes : nullptr;
  };
  for (int index = 0; index < args.planes; ++index) {
    const size_t codes = static_cast<size_t>(args.chunks) * (index == 0 ? 128 : 64);
    part.w0 = skip(part.w0, codes);
    part.w1 = skip(part.w1, codes);
    part.s0 = skip(part.s0, scale_bytes);
    part.s1 = skip(part.s1, scale_bytes);
    plane(part);
  }
}

void k_tile_wn_int8(const smoe::TileArgs& args) { run_planes(args, k_tile_int8<CodesW2>, k_tile_int8<CodesW1>); }
void k_tile_wn_exact(const smoe::TileArgs& args) {
  run_planes(args, k_tile_exact<IntegerValues<CodesW2>>, k_tile_exact<IntegerValues<CodesW1>>);
}

}  // namespace
