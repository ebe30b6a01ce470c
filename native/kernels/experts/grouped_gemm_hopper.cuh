// P3, P4 on wgmma (sm_90a): bf16 weights as the A operand in registers, straight from packed atoms, whose m16k16 order
// is that of a warp's part of m64k16; activation rows gathered into 128-byte swizzled B tiles (specs/cuda-kernels.md
// 2.1, 2.6, 2.7).
//
// One producer warpgroup fills a ring of stages of 64 columns, two consumer warpgroups multiply. Per stage of the large
// tile, 256 weight rows x 128 rows of x, on one SM:
//   tensor cores    16 wgmma m64n128k16 at 64 clk                                                        = 1024 clk
//   shared memory   32 KB weights in, 32 KB out to registers, 16 KB x in, 16 x 4 KB read by wgmma, 128 B/clk = 1152 clk
//   L2              48 KB in 1152 clk = 43 B/clk; 39 is what all SMs together get (9.2 TB/s, measured on an H200)
// Bulk copies of 2 KB from one warp, as the weights come, reach 6.4 TB/s together (measured): about 75 clk each, 1200
// for the 16 of a stage. Registers of a consumer: 128 sums, 2 x 16 of A, addresses. The ring holds 4 x 48 KB = 192 KB
// of 227: loads of three stages are in flight, 144 KB, far above the 28 KB that latency times bandwidth asks for.
// Smaller tiles serve experts with fewer rows, where the weights' bytes are what costs: N shrinks, the ring stays deep.
#pragma once

#include "kernels/experts/grouped_store.cuh"

namespace smoe::cu {

constexpr int kHopperAtoms = 4, kHopperK = kHopperAtoms * kAtomCols;
constexpr int kHopperCopiers = 64;  // threads that copy x

// TN rows of x; M m64 operands of each of W consumer warpgroups.
template <int TN, int M, int W>
struct HopperShape {
  static constexpr int kThreads = 128 * (W + 1), kWarps = 4 * W;  // of which consumers
  static constexpr int kBlocks = 4 * M * W;                       // row blocks of a tile
  static constexpr int kWeightBytes = kBlocks * kHopperAtoms * 512, kStageBytes = kWeightBytes + TN * kHopperK * 2;
  static constexpr int kStages = TN >= 128 ? 4 : TN == 64 ? 5 : 8;
  static constexpr int kScratch = kStages * kStageBytes;  // sums on their way out
  static constexpr int kScratchBytes =
      W * (4 * store_floats(M) * 4 > kGroupStore ? 4 * store_floats(M) * 4 : kGroupStore);
  static constexpr int kPrefix = kScratch + kScratchBytes;           // tiles before each expert
  static constexpr int kRows = kPrefix + (kGroupedExperts + 2) * 4;  // of x, of the tile being copied
  // For every stage: everything has landed; x has; all have read it.
  static constexpr int kBars = kRows + TN * 8, kBytes = kBars + 3 * kStages * 8;
  static_assert(kStageBytes % 1024 == 0 && kBars % 8 == 0 && kBytes <= 232448, "fits one block of sm_90");
};

// Columns that a tile with n real rows multiplies. Three quarters of the largest tile: an expert of 256 rows by uniform
// routing has more than that half of the time, then three tiles of about 90.
template <int TN>
SMOE_DEVICE int tile_columns(int n) {
  if (TN >= 64 && n <= TN / 2) return TN / 2;
  return TN == 128 && n <= TN * 3 / 4 ? TN * 3 / 4 : TN;
}

template <int TN, int M, int W>
struct HopperRing {
  using S = HopperShape<TN, M, W>;
  unsigned char* base;
  int stage = 0;
  uint32_t parity = 0;

  SMOE_DEVICE explicit HopperRing(unsigned char* shared) : base(shared) {}
  SMOE_DEVICE unsigned char* weights() const { return base + stage * S::kStageBytes; }
  SMOE_DEVICE unsigned char* rows() const { return weights() + S::kWeightBytes; }
  SMOE_DEVICE uint64_t* full(int s) const { return reinterpret_cast<uint64_t*>(base + S::kBars) + s; }
  SMOE_DEVICE uint64_t* copied(int s) const { return full(S::kStages + s); }
  SMOE_DEVICE uint64_t* empty(int s) const { return full(2 * S::kStages + s); }
  SMOE_DEVICE int before() const { return stage > 0 ? stage - 1 : S::kStages - 1; }
  SMOE_DEVICE void advance() {
    if (++stage == S::kStages) stage = 0, parity ^= 1;
  }
};

// --- producers. The first warp copies weights, lane b row block b. Past the matrix, at its edges, others stand in,
// which are finite where the real ones are: rows whose sums nobody stores, columns where x is zero.
template <int TN, int M, int W>
SMOE_DEVICE void copy_weights(const GroupedGemmArgs& args, const int32_t* prefix, int tiles,
                              HopperRing<TN, M, W> ring) {
  using S = HopperShape<TN, M, W>;
  const int atoms = static_cast<int>(atoms_along(args.k)), last = grouped_blocks(args) - 1;
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = tile_at<TN>(args, S::kBlocks, prefix, index);
    const int mine = tile.block0 + lane() < last ? tile.block0 + lane() : last;
    const U32x4* const block = ldg(&(args.weights + tile.expert)->atoms) + off(mine, atoms) * 32;
    SMOE_UNROLL1
    for (int atom = 0; atom < atoms; atom += kHopperAtoms) {
      uint64_t* const full = ring.full(ring.stage);
      mbar_wait(ring.empty(ring.stage), ring.parity ^ 1);
      if (lane() == 0) mbar_arrive_expect(full, S::kWeightBytes);
      sync_warp();
      if (lane() < S::kBlocks) {
        unsigned char* const to = ring.weights() + lane() * (kHopperAtoms * 512);
        const int real = atoms - atom < kHopperAtoms ? atoms - atom : kHopperAtoms;
        fence_proxy_async();  // what consumers read as generic loads is now written through the async proxy
        bulk_g2s(to, block + atom * 32, static_cast<uint32_t>(real * 512), full, false);
        SMOE_UNROLL1
        for (int i = real; i < kHopperAtoms; ++i) bulk_g2s(to + i * 512, block, 512, full, false);
      }
      ring.advance();
    }
  }
}

// cp.async writes as generic stores do, wgmma reads through the async proxy, and a proxy fence waits for every copy
// that its thread has in flight. So those who copy never fence: one thread that copies nothing waits for each stage's
// x, fences, and passes it on.
template <int TN, int M, int W>
SMOE_DEVICE void pass_on(const GroupedGemmArgs& args, int tiles, HopperRing<TN, M, W> ring) {
  const int atoms = static_cast<int>(atoms_along(args.k));
  for (int index = bid(); index < tiles; index += nblocks()) {
    SMOE_UNROLL1
    for (int atom = 0; atom < atoms; atom += kHopperAtoms) {
      mbar_wait(ring.copied(ring.stage), ring.parity);
      fence_proxy_async();
      mbar_arrive(ring.full(ring.stage));
      ring.advance();
    }
  }
}

// The last two warps copy x, a lane chunk lane() % 8 of every eighth row. Where rows begin is listed in shared memory:
// a thread has up to 32 of them and few registers.
template <int TN, int M, int W>
SMOE_DEVICE void copy_rows(const GroupedGemmArgs& args, const int32_t* prefix, int tiles, HopperRing<TN, M, W> ring) {
  using S = HopperShape<TN, M, W>;
  constexpr int kBatch = TN / 8 < 4 ? TN / 8 : 4;
  const int atoms = static_cast<int>(atoms_along(args.k));
  const int half = warp() - 2, chunk = lane() % 8, first = 4 * half + lane() / 8;
  const int swizzled = first * 128 + (chunk ^ first) * 16;
  // Row 8 j + 4 half + i of the tile at 4 j + i of this warp's half; past the expert's rows any that exists.
  const unsigned char** const list = reinterpret_cast<const unsigned char**>(ring.base + S::kRows) + half * (TN / 2);
  const unsigned char* const* const mine = list + lane() / 8;
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = even_tile_at<TN>(args, S::kBlocks, prefix, index);
    const int steps = tile_columns<TN>(tile.stop - tile.row0) / 8, real = tile.stop - tile.row0 - first;
    sync_warp();  // the list of the tile before has been read
    int32_t row[(TN + 63) / 64];
    SMOE_UNROLL
    for (int i = 0; i < (TN + 63) / 64; ++i) {
      int at = tile.row0 + 64 * i + lane() / 4 * 8 + 4 * half + lane() % 4;
      if (at >= tile.stop) at = tile.row0;
      row[i] = args.gather != nullptr ? ldg(args.gather + at) : at;
    }
    SMOE_UNROLL
    for (int i = 0; i < (TN + 63) / 64; ++i) {
      if (32 * i + lane() >= TN / 2) continue;
      sts(list + 32 * i + lane(), reinterpret_cast<const unsigned char*>(args.x.data + off(row[i], args.x_stride)));
    }
    sync_warp();
    for (int atom = 0; atom < atoms; atom += kHopperAtoms) {
      mbar_wait(ring.empty(ring.stage), ring.parity ^ 1);
      unsigned char* const to = ring.rows() + swizzled;
      const int k = atom * kAtomCols + chunk * 8, rows = k < args.k ? real : 0;
      const uint32_t offset = k < args.k ? 2 * static_cast<uint32_t>(k) : 0;
      // The next few addresses are read while these are used: one by one, each would be waited for.
      const unsigned char* from[kBatch];
      SMOE_UNROLL
      for (int i = 0; i < kBatch; ++i) from[i] = lds(mine + 4 * i);
      SMOE_UNROLL1
      for (int j = 0; j < steps; j += kBatch) {
        const unsigned char* next[kBatch];
        SMOE_UNROLL
        for (int i = 0; i < kBatch; ++i) next[i] = lds(mine + 4 * (j + kBatch < TN / 8 ? j + kBatch + i : i));
        SMOE_UNROLL
        for (int i = 0; i < kBatch; ++i) cp16(to + (j + i) * 1024, from[i] + offset, 8 * (j + i) < rows);
        SMOE_UNROLL
        for (int i = 0; i < kBatch; ++i) from[i] = next[i];
      }
      cp_arrive(ring.copied(ring.stage));
      ring.advance();
    }
  }
}

// --- consumers
// acc += the tile, N columns of it. Sums of one group of steps are under way while the fragments of the next are
// loaded.
template <int N, int TN, int M, int W>
SMOE_DEVICE void consume(int atoms, HopperRing<TN, M, W>& ring, float (&acc)[M][TN / 2]) {
  constexpr int kSteps = 2;            // of k16 in a group
  const int block = (warp() - 4) * M;  // of the tile
  uint32_t a[2][M][kSteps][4];
  int atom = 0;
  do {  // at least once: a way around the loop would make ptxas copy sums that are under way
    mbar_wait(ring.full(ring.stage), ring.parity);
    const U32x4* const weights = reinterpret_cast<const U32x4*>(ring.weights()) + block * kHopperAtoms * 32 + lane();
    const uint64_t rows = wgmma_descriptor(shared_address(ring.rows()), 16, 1024, Swizzle::Bytes128);
    SMOE_UNROLL
    for (int first = 0; first < kHopperAtoms; first += kSteps) {
      const int turn = first / kSteps % 2;
      SMOE_UNROLL
      for (int m = 0; m < M; ++m) {
        SMOE_UNROLL
        for (int step = 0; step < kSteps; ++step) {
          const U32x4 loaded = lds(weights + (m * kHopperAtoms + first + step) * 32);
          SMOE_UNROLL
          for (int i = 0; i < 4; ++i) a[turn][m][step][i] = loaded.x[i];
        }
      }
      wgmma_fence();
      SMOE_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        SMOE_UNROLL
        for (int m = 0; m < M; ++m) {
          // 32 bytes along the swizzled rows per step of k16.
          wgmma_rs<N>(reinterpret_cast<float(&)[N / 2]>(acc[m]), a[turn][m][step],
                      rows + descriptor_field(32 * (first + step)));
        }
      }
      wgmma_commit();
      wgmma_wait<1>();  // all but the group just begun: the stage before is free
      if (first == 0 && atom > 0) {
        sync_warp();
        if (lane() == 0) mbar_arrive(ring.empty(ring.before()));
      }
    }
    ring.advance();
    atom += kHopperAtoms;
  } while (atom < atoms);
  wgmma_wait<0>();
  SMOE_UNROLL
  for (int m = 0; m < M; ++m) wgmma_done(acc[m]);
  sync_warp();
  if (lane() == 0) mbar_arrive(ring.empty(ring.before()));
}

template <int TN, int M, int W>
SMOE_DEVICE void consume_columns(int columns, int atoms, HopperRing<TN, M, W>& ring, float (&acc)[M][TN / 2]) {
  if constexpr (TN == 128 || TN == 64) {
    if (columns == TN / 2) return consume<TN / 2>(atoms, ring, acc);
  }
  if constexpr (TN == 128) {
    if (columns == TN * 3 / 4) return consume<TN * 3 / 4>(atoms, ring, acc);
  }
  consume<TN>(atoms, ring, acc);
}

template <int TN, int M, int W>
SMOE_DEVICE void consume_tiles(const GroupedGemmArgs& args, const int32_t* prefix, int tiles,
                               HopperRing<TN, M, W> ring) {
  using S = HopperShape<TN, M, W>;
  const int atoms = static_cast<int>(atoms_along(args.k)), group = warp() / 4 - 1;
  unsigned char* const scratch = ring.base + S::kScratch + group * (S::kScratchBytes / W);
  const bool quick = TN >= 32 && stores_groups(args);
  int turn = 0;
  for (int index = bid(); index < tiles; index += nblocks()) {
    const GroupedTile tile = even_tile_at<TN>(args, S::kBlocks, prefix, index);
    float acc[M][TN / 2] = {};
    consume_columns(tile_columns<TN>(tile.stop - tile.row0), atoms, ring, acc);
    const int block = tile.block0 + group * 4 * M;
    if (quick) {
      if constexpr (TN >= 32) store_group<M, TN>(args, tile, block, group, scratch, &turn, acc);
    } else {
      store_sums<M, TN / 8>(args, tile, block + warp() % 4 * M, tile.row0,
                            reinterpret_cast<float*>(scratch) + warp() % 4 * store_floats(M),
                            [&](int b, int t, int c) { return acc[b][4 * t + c]; });
    }
  }
}

template <int TN, int M, int W>
SMOE_KERNEL(128 * (W + 1), 1)
grouped_gemm_hopper(GroupedGemmArgs args) {
  using S = HopperShape<TN, M, W>;
  SMOE_SMEM_DYN(unsigned char, shared);
  int32_t* const prefix = reinterpret_cast<int32_t*>(shared + S::kPrefix);
  const HopperRing<TN, M, W> ring(shared);
  if (tid() == 0) {
    for (int s = 0; s < S::kStages; ++s) {
      mbar_init(ring.full(s), 2);  // the copies of the weights; x, passed on
      mbar_init(ring.copied(s), kHopperCopiers);
      mbar_init(ring.empty(s), S::kWarps);
    }
    fence_mbar_init();
  }
  pdl_wait();
  if (warp() == 1) list_tiles<TN>(args, S::kBlocks, prefix);
  sync();
  const int tiles = lds(prefix + args.experts);
  // 128 threads x (56 + 2 x 224) = 384 x 168, the most that three warpgroups can be compiled with.
  if (warp() < 4) {
    fewer_registers<40>();
    if (warp() == 0) {
      copy_weights(args, prefix, tiles, ring);
    } else if (warp() > 1) {
      copy_rows(args, prefix, tiles, ring);
    } else if (lane() == 0) {
      pass_on(args, tiles, ring);
    }
  } else {
    more_registers<232>();
    consume_tiles(args, prefix, tiles, ring);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
