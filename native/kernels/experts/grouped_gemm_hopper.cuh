// P3, P4 on wgmma (sm_90a): bf16 weights as the A operand in registers, straight from packed atoms, whose m16k16 order
// is that of a warp's part of m64k16; activation rows gathered into 128-byte swizzled B tiles (specs/cuda-kernels.md
// 2.1, 2.6, 2.7).
//
// One producer warpgroup fills a ring of stages of 64 columns, two consumer warpgroups multiply. Per stage of the large
// tile, 256 weight rows x 128 rows of x, on one SM:
//   tensor cores    16 wgmma m64n128k16 at 64 clk                                                        = 1024 clk
//   shared memory   32 KB weights in, 32 KB out to registers, 16 KB x in, 16 x 4 KB read by wgmma, 128 B/clk = 1152 clk
//   L2              48 KB in 1152 clk = 43 B/clk of about 46 that all SMs together get
// so that all three end near 1100 clk, 93 % of the 989 TFLOP/s peak and above the 788 that power allows. Registers of a
// consumer: 128 sums, 2 x 16 of A, addresses. The ring holds 4 x 48 KB = 192 KB of 227. Loads of three stages are in
// flight, 144 KB, far above the 28 KB that latency times bandwidth asks for.
// Smaller tiles serve experts with fewer rows, where the weights' bytes are what costs: N shrinks, the ring stays deep.
#pragma once

#include "kernels/experts/grouped_store.cuh"

namespace smoe::cu {

constexpr int kHopperThreads = 384, kHopperWarps = 8;  // of which consumers
constexpr int kHopperAtoms = 4, kHopperK = kHopperAtoms * kAtomCols;
constexpr int kHopperLag = 2;  // stages between issuing copies of x and declaring them landed

// TN rows of x; M m64 operands of each consumer warpgroup.
template <int TN, int M>
struct HopperShape {
  static constexpr int kBlocks = 8 * M;  // row blocks of a tile
  static constexpr int kWeightBytes = kBlocks * kHopperAtoms * 512, kStageBytes = kWeightBytes + TN * kHopperK * 2;
  static constexpr int kStages = TN == 128 ? 4 : TN == 64 ? 5 : 8;
  static constexpr int kScratch = kStages * kStageBytes;                         // sums on their way out
  static constexpr int kPrefix = kScratch + kHopperWarps * store_floats(M) * 4;  // tiles before each expert
  static constexpr int kBars = kPrefix + (kGroupedExperts + 2) * 4, kBytes = kBars + 2 * kStages * 8;
  static_assert(kStageBytes % 1024 == 0 && kBars % 8 == 0 && kBytes <= 232448, "fits one block of sm_90");
};

// Columns that a tile with n real rows multiplies: the last tile of an expert is narrower.
template <int TN>
SMOE_DEVICE int tile_columns(int n) {
  if (TN >= 64 && n <= TN / 4) return TN / 4;
  return TN >= 32 && n <= TN / 2 ? TN / 2 : TN;
}

template <int TN, int M>
struct HopperRing {
  using S = HopperShape<TN, M>;
  unsigned char* base;
  int stage = 0;
  uint32_t parity = 0;

  SMOE_DEVICE explicit HopperRing(unsigned char* shared) : base(shared) {}
  SMOE_DEVICE unsigned char* weights() const { return base + stage * S::kStageBytes; }
  SMOE_DEVICE unsigned char* rows() const { return weights() + S::kWeightBytes; }
  SMOE_DEVICE uint64_t* full(int s) const { return reinterpret_cast<uint64_t*>(base + S::kBars) + s; }
  SMOE_DEVICE uint64_t* empty(int s) const { return full(S::kStages + s); }
  SMOE_DEVICE int before(int steps) const { return stage >= steps ? stage - steps : stage - steps + S::kStages; }
  SMOE_DEVICE void advance() {
    if (++stage == S::kStages) stage = 0, parity ^= 1;
  }
};

// --- producers: thread t copies chunk t % 8 of rows t / 8 + 16 j; lane b of the first warp copies row block b.
template <int TN, int M>
SMOE_DEVICE void produce(const GroupedGemmArgs& args, const int32_t* prefix, int tiles, HopperRing<TN, M> ring) {
  using S = HopperShape<TN, M>;
  const int atoms = static_cast<int>(atoms_along(args.k)), blocks = grouped_blocks(args);
  const int chunk = tid() % 8, first = tid() / 8;
  const int swizzled = first * 128 + (chunk ^ first % 8) * 16;
  int pending = 0;  // stages whose copies of x nobody has been told of
  const auto landed = [&](int s) {
    fence_proxy_async();  // cp.async writes as generic stores do, wgmma reads through the async proxy
    sync_warp();
    if (lane() == 0) mbar_arrive(ring.full(s));
  };
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = tile_at<TN>(args, S::kBlocks, prefix, index);
    const int columns = tile_columns<TN>(tile.stop - tile.row0);
    const int here = blocks - tile.block0 < S::kBlocks ? blocks - tile.block0 : S::kBlocks;
    const U32x4* const block = ldg(&(args.weights + tile.expert)->atoms) + off(tile.block0 + lane(), atoms) * 32;
    int row[TN / 16];
    SMOE_UNROLL
    for (int j = 0; j < TN / 16; ++j) {
      const int at = tile.row0 + first + 16 * j;
      row[j] = at >= tile.stop ? -1 : args.gather != nullptr ? ldg(args.gather + at) : at;
    }
    for (int atom = 0; atom < atoms; atom += kHopperAtoms) {
      mbar_wait(ring.empty(ring.stage), ring.parity ^ 1);
      if (warp() == 0) {
        const int bytes = (atoms - atom < kHopperAtoms ? atoms - atom : kHopperAtoms) * 512;
        uint64_t* const full = ring.full(ring.stage);
        if (lane() == 0) mbar_arrive_expect(full, static_cast<uint32_t>(here * bytes));
        sync_warp();
        if (lane() < here) {
          fence_proxy_async();  // what consumers read as generic loads is now written through the async proxy
          bulk_g2s(ring.weights() + lane() * (kHopperAtoms * 512), block + atom * 32, static_cast<uint32_t>(bytes),
                   full, false);
        }
      }
      // Weights past the matrix, at its edges only: 0 times what lay there before could be NaN.
      if (here < S::kBlocks || atoms - atom < kHopperAtoms) {
        for (int i = tid(); i < S::kWeightBytes / 16; i += 128) {
          const bool real = i / 128 < here && atom + i / 32 % kHopperAtoms < atoms;
          if (!real) cp16(ring.weights() + i * 16, args.x.data, false);
        }
      }
      unsigned char* const to = ring.rows() + swizzled;
      const int64_t k = atom * kAtomCols + chunk * 8;
      SMOE_UNROLL
      for (int j = 0; j < TN / 16; ++j) {
        if (16 * j >= columns) break;
        const bool real = row[j] >= 0 && k < args.k;
        cp16(to + j * 2048, real ? args.x.data + off(row[j], args.x_stride) + k : args.x.data, real);
      }
      cp_commit();
      if (pending == kHopperLag) {
        cp_wait<kHopperLag>();
        landed(ring.before(kHopperLag));
      } else {
        ++pending;
      }
      ring.advance();
    }
  }
  cp_wait<0>();
  for (; pending > 0; --pending) landed(ring.before(pending));
}

// --- consumers
// acc += the tile, N columns of it. Sums of half a stage are under way while the fragments of the next are loaded.
template <int N, int TN, int M>
SMOE_DEVICE void consume(int atoms, HopperRing<TN, M>& ring, float (&acc)[M][TN / 2]) {
  const int block = (warp() - 4) * M;  // of the tile
  uint32_t a[2][M][2][4];
  int atom = 0;
  do {  // at least once: a way around the loop would make ptxas copy sums that are under way
    mbar_wait(ring.full(ring.stage), ring.parity);
    const U32x4* const weights = reinterpret_cast<const U32x4*>(ring.weights()) + block * kHopperAtoms * 32 + lane();
    const uint64_t rows = wgmma_descriptor(shared_address(ring.rows()), 16, 1024, Swizzle::Bytes128);
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      SMOE_UNROLL
      for (int m = 0; m < M; ++m) {
        SMOE_UNROLL
        for (int step = 0; step < 2; ++step) {
          const U32x4 loaded = lds(weights + (m * kHopperAtoms + 2 * half + step) * 32);
          SMOE_UNROLL
          for (int i = 0; i < 4; ++i) a[half][m][step][i] = loaded.x[i];
        }
      }
      wgmma_fence();
      SMOE_UNROLL
      for (int step = 0; step < 2; ++step) {
        SMOE_UNROLL
        for (int m = 0; m < M; ++m) {
          // 32 bytes along the swizzled rows per step of k16.
          wgmma_rs<N>(reinterpret_cast<float(&)[N / 2]>(acc[m]), a[half][m][step],
                      rows + descriptor_field(32 * (2 * half + step)));
        }
      }
      wgmma_commit();
      wgmma_wait<1>();  // all but the half just begun: the stage before is free
      if (half == 0 && atom > 0) {
        sync_warp();
        if (lane() == 0) mbar_arrive(ring.empty(ring.before(1)));
      }
    }
    ring.advance();
    atom += kHopperAtoms;
  } while (atom < atoms);
  wgmma_wait<0>();
  SMOE_UNROLL
  for (int m = 0; m < M; ++m) wgmma_done(acc[m]);
  sync_warp();
  if (lane() == 0) mbar_arrive(ring.empty(ring.before(1)));
}

template <int TN, int M>
SMOE_DEVICE void consume_tiles(const GroupedGemmArgs& args, const int32_t* prefix, int tiles, HopperRing<TN, M> ring) {
  using S = HopperShape<TN, M>;
  const int atoms = static_cast<int>(atoms_along(args.k));
  float* const scratch = reinterpret_cast<float*>(ring.base + S::kScratch) + (warp() - 4) * store_floats(M);
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = tile_at<TN>(args, S::kBlocks, prefix, index);
    const int columns = tile_columns<TN>(tile.stop - tile.row0);
    float acc[M][TN / 2] = {};
    if (columns == TN) {
      consume<TN>(atoms, ring, acc);
    } else if (TN < 64 || columns == TN / 2) {
      if constexpr (TN >= 32) consume<TN / 2>(atoms, ring, acc);
    } else {
      if constexpr (TN >= 64) consume<TN / 4>(atoms, ring, acc);
    }
    store_sums<M, TN / 8>(args, tile, tile.block0 + (warp() - 4) * M, tile.row0, scratch,
                          [&](int b, int t, int c) { return acc[b][4 * t + c]; });
  }
}

template <int TN, int M>
SMOE_KERNEL(kHopperThreads, 1)
grouped_gemm_hopper(GroupedGemmArgs args) {
  using S = HopperShape<TN, M>;
  SMOE_SMEM_DYN(unsigned char, shared);
  int32_t* const prefix = reinterpret_cast<int32_t*>(shared + S::kPrefix);
  const HopperRing<TN, M> ring(shared);
  if (tid() == 0) {
    for (int s = 0; s < S::kStages; ++s) {
      mbar_init(ring.full(s), 1 + 4);  // the copies of the weights; a lane of every producer warp
      mbar_init(ring.empty(s), kHopperWarps);
    }
    fence_mbar_init();
  }
  pdl_wait();
  if (warp() == 1) list_tiles<TN>(args, S::kBlocks, prefix);
  sync();
  const int tiles = lds(prefix + args.experts);
  // 128 threads x (56 + 2 x 224) = 384 x 168, the most that three warpgroups can be compiled with.
  if (warp() < 4) {
    fewer_registers<56>();
    produce<TN, M>(args, prefix, tiles, ring);
  } else {
    more_registers<224>();
    consume_tiles<TN, M>(args, prefix, tiles, ring);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
