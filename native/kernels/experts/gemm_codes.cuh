// The tile of the prefill GEMMs for weights of codes. Activations go through the ring of gemm_tile.cuh. Codes, being
// few bytes, skip it: a warp loads the atoms of its row blocks straight into registers, two atoms ahead. Scales
// multiply the f32 sum of their group, which is added to the accumulators (as in multiply_codes.cuh), so the tile does
// not show in the bits here either.
#pragma once

#include "kernels/experts/gemm_tile.cuh"
#include "kernels/experts/nested_planes.cuh"

namespace smoe::cu {

// The atoms and scales of a warp's row blocks, along K. Blocks past the matrix repeat its last one; nobody reads their
// sums.
template <class Codes, int kBlocks>
struct CodeStream {
  static constexpr int kAhead = 2;
  const U32x4* from[kBlocks];
  U32x4 atom[kBlocks], ahead[kAhead][kBlocks];

  SMOE_DEVICE void start(const AtomMatrix& matrix, int atoms, int64_t block0, int64_t blocks) {
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t block = block0 + b < blocks ? block0 + b : blocks - 1;
      from[b] = matrix.atoms + off(block, atoms) * 32 + lane();
      SMOE_UNROLL
      for (int i = 0; i < kAhead; ++i) ahead[i][b] = ldg_stream(from[b] + i % atoms * 32);
    }
  }
  // Atom `at` becomes the current one.
  SMOE_DEVICE void next(int at, int atoms) {
    const int64_t later = (at + kAhead) % atoms;
    SMOE_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      atom[b] = ahead[0][b];
      SMOE_UNROLL
      for (int i = 1; i < kAhead; ++i) ahead[i - 1][b] = ahead[i][b];
      ahead[kAhead - 1][b] = ldg_stream(from[b] + later * 32);
    }
  }
};

// The next 32 columns of an atom become its first; `stage` says where in K they begin. Of one-bit codes a word holds
// two stages.
template <class Codes>
SMOE_DEVICE void next_columns(U32x4* atom, int stage) {
  if constexpr (Codes::kCols <= 4 * kUnitCols) {
    advance_atom<Codes::kCols>(atom);
  } else if (stage % 2 != 0) {
    atom->x[0] >>= 2 * kStageK / 8;
  } else {
    drop_words<1>(atom);
  }
}

// acc += the tile.
template <int TN, class Codes>
SMOE_DEVICE void multiply_code_tile(const GemmOperands<TN>& in, const AtomMatrix& matrix, unsigned char* ring,
                                    float (&acc)[GemmShape<TN>::kBlocks][GemmShape<TN>::kTiles][4]) {
  using S = GemmShape<TN>;
  constexpr int kAtomStages = Codes::kCols / kStageK, kGroupSteps = Codes::kGroupCols / 16;
  const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
  const int atoms = static_cast<int>(atoms_along(in.k, Codes::kCols)),
            stages = static_cast<int>(atoms_along(in.k, kStageK)), steps = in.x_parts * stages;
  const int down = warp() % S::kWarpsDown * S::kBlocks, across = warp() / S::kWarpsDown * S::kTiles * 8;
  const int units = matrix.group > 0 ? matrix.group / Codes::kGroupCols : 1 << 30;  // of kGroupCols in a group
  const bool symmetric = matrix.zeros == nullptr;
  int left = units;
  CodeStream<Codes, S::kBlocks> stream;
  stream.start(matrix, atoms, in.block0 + down, in.blocks);
  GroupScales scales[S::kBlocks];
  float sum[S::kBlocks][S::kTiles][4] = {}, x_sum[S::kTiles][4] = {};
  const auto add_group = [&] {
    SMOE_UNROLL
    for (int tile = 0; tile < S::kTiles; ++tile) {
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) scales[b].add(sum[b][tile], x_sum[tile], acc[b][tile]);
      clear(x_sum[tile]);
    }
    SMOE_UNROLL
    for (int b = 0; b < S::kBlocks; ++b) scales[b].next();
    left = units;
  };
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load_tokens<TN>(in, s % stages, s / stages, ring + s * S::kStageBytes);
    cp_commit();
  }
  int stage = 0;
  for (int step = 0; step < steps; ++step) {
    cp_wait<kStages - 2>();
    sync();
    if (stage == 0) {  // of a part of the activations
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) {
        const int64_t block = in.block0 + down + b;
        scales[b].start(matrix, block < in.blocks ? block : in.blocks - 1, 0, int64_t{atoms} * Codes::kCols);
      }
    }
    if (stage % kAtomStages == 0) {
      stream.next(stage / kAtomStages, atoms);
    } else {
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) next_columns<Codes>(&stream.atom[b], stage);
    }
    const bf16* const tokens = stage_tokens<TN>(ring + step % kStages * S::kStageBytes);
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t a[S::kBlocks][4];
      SMOE_UNROLL
      for (int b = 0; b < S::kBlocks; ++b) Codes::fragment(stream.atom[b], half, a[b]);
      SMOE_UNROLL
      for (int tile = 0; tile < S::kTiles; tile += 2) {
        uint32_t r[4];
        load_token_pair(r, tokens, across + tile * 8, half);
        const uint32_t b0[2] = {r[0], r[1]}, b1[2] = {r[2], r[3]};
        SMOE_UNROLL
        for (int b = 0; b < S::kBlocks; ++b) {
          mma_bf16(sum[b][tile], a[b], b0);
          mma_bf16(sum[b][tile + 1], a[b], b1);
        }
        if (!symmetric) {
          mma_bf16(x_sum[tile], ones, b0);
          mma_bf16(x_sum[tile + 1], ones, b1);
        }
      }
      if ((half + 1) % kGroupSteps == 0 && --left == 0) add_group();
    }
    if (++stage == stages) {
      stage = 0;
      if (left != units) add_group();
    }
    // The ring's place that everybody left before the barrier above.
    const int next = step + kStages - 1;
    if (next < steps) load_tokens<TN>(in, next % stages, next / stages, ring + next % kStages * S::kStageBytes);
    cp_commit();
  }
  cp_wait<0>();
  sync();
}

// acc += the first `planes` residual planes of a matrix.
template <int TN>
SMOE_DEVICE void multiply_plane_tiles(const GemmOperands<TN>& in, const AtomMatrix* matrix, int planes,
                                      unsigned char* ring,
                                      float (&acc)[GemmShape<TN>::kBlocks][GemmShape<TN>::kTiles][4]) {
  SMOE_UNROLL1
  for (int plane = 1; plane <= planes; ++plane) {
    multiply_code_tile<TN, SignCodes>(in, load_matrix<false>(plane_of(matrix, plane)), ring, acc);
  }
}

// A tile of a matrix of any format. codes: whether it may be of codes.
template <int TN, bool codes>
SMOE_DEVICE void multiply_any_tile(GemmOperands<TN>* in, const AtomMatrix& matrix, unsigned char* ring,
                                   float (&acc)[GemmShape<TN>::kBlocks][GemmShape<TN>::kTiles][4]) {
  in->atoms = matrix.atoms;
  in->part_step = matrix.part_step;
  in->weight_parts = matrix.format == AtomFormat::Bf16x3 ? 3 : 1;
  if constexpr (codes) {
    if (matrix.format != AtomFormat::Bf16 && matrix.format != AtomFormat::Bf16x3) {
      with_codes(matrix.format, [&](auto format) { multiply_code_tile<TN, decltype(format)>(*in, matrix, ring, acc); });
      return;
    }
  }
  multiply_tile<TN>(*in, ring, acc);
}

}  // namespace smoe::cu
