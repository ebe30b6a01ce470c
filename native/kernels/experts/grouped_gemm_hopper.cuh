// P3, P4 on wgmma (sm_90a): bf16 weights as the A operand in registers, straight from packed atoms, whose m16k16 order
// is that of a warp's part of m64k16; activation rows gathered into 128-byte swizzled B tiles (specs/cuda-kernels.md
// 2.1, 2.6, 2.7).
//
// One producer warpgroup fills a ring of stages of 64 columns, two consumer warpgroups multiply. Per stage of the
// largest tile, 128 weight rows x 256 rows of x, on one SM:
//   tensor cores    8 wgmma m64n256k16 at 128 clk                                                        = 1024 clk
//   shared memory   16 KB weights in and out to registers, 32 KB x in, 8 x 8 KB read by wgmma, 128 B/clk = 1024 clk
//   L2              48 KB in 1024 clk = 48 B/clk of about 39 that all SMs together get (9.2 TB/s, measured on an H200)
// so that L2 holds it at about 80 % of the 989 TFLOP/s peak, where power does, too. Registers of a consumer: 128 sums,
// 2 x 8 of A for each width of a tile, addresses. The ring holds 4 x 48 KB = 192 KB of 227: loads of three stages are
// in flight, 144 KB, far above the 28 KB that latency times bandwidth asks for.
// Smaller tiles serve experts with fewer rows, where the weights' bytes are what costs: N shrinks, the ring stays deep.
#pragma once

#include "kernels/experts/grouped_store.cuh"

namespace smoe::cu {

constexpr int kHopperAtoms = 4, kHopperK = kHopperAtoms * kAtomCols;
constexpr int kHopperCopiers = 96;  // threads that copy x
constexpr int kHopperLag = 2;       // stages between beginning to copy x and passing it on

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
  static constexpr int kPrefix = kScratch + kScratchBytes;               // the tile list
  static constexpr int kRows = kPrefix + (2 * kGroupedExperts + 2) * 4;  // of x, of the tile being copied
  static constexpr int kRowList = (TN / 16 + 2) / 3 * 16;                // of a warp that copies x
  // For every stage: everything has landed; x has; all have read it.
  static constexpr int kBars = kRows + 3 * kRowList * 8, kBytes = kBars + 3 * kStages * 8;
  static_assert(kStageBytes % 1024 == 0 && kBars % 8 == 0 && kBytes <= 232448, "fits one block of sm_90");
};

// Columns that a tile with n real rows multiplies, and the next smaller choice. Five sets of A registers are what fits:
// ptxas gives each its own.
template <int TN>
SMOE_DEVICE int tile_columns(int n) {
  if (TN == 256) return n <= 128 ? 128 : n <= 144 ? 144 : n <= 192 ? 192 : n <= 224 ? 224 : 256;
  return TN >= 64 && n <= TN / 2 ? TN / 2 : TN;
}
template <int TN>
SMOE_DEVICE int fewer_columns(int columns) {
  if (TN == 256) return columns == 256 ? 224 : columns == 224 ? 192 : columns == 192 ? 144 : columns == 144 ? 128 : 0;
  return TN >= 64 && columns == TN ? TN / 2 : 0;
}

// The tile list (grouped_tiles.cuh) with two differences. The tiles of an expert get the same number of rows, give or
// take one. Experts with the widest tiles come first: blocks take tiles in turn, so each gets as many of every width.
struct HopperTiles {
  int32_t* prefix;  // [kGroupedExperts + 1] tiles before each place of the order; then the number of places
  int tiles = 0;

  SMOE_DEVICE int32_t* places() const { return prefix + kGroupedExperts + 1; }
  SMOE_DEVICE int32_t* order() const { return prefix + kGroupedExperts + 2; }  // experts with rows
};

// By the whole block; keys: a number per expert, overwritten.
template <int TN>
SMOE_DEVICE void order_tiles(const GroupedGemmArgs& args, int tile_blocks, int32_t* keys, HopperTiles* list) {
  for (int e = tid(); e < args.experts; e += nthreads()) {
    const int rows = ldg(args.offset + e + 1) - ldg(args.offset + e), down = (rows + TN - 1) / TN;
    sts(keys + e, rows > 0 ? down << 9 | tile_columns<TN>((rows + down - 1) / down) : 0);
  }
  sync();
  const int across = (grouped_blocks(args) + tile_blocks - 1) / tile_blocks;
  if (warp() == 1) {
    int place = 0, before = 0;
    for (int columns = TN; columns > 0; columns = fewer_columns<TN>(columns)) {
      for (int base = 0; base < args.experts; base += 32) {
        const int key = base + lane() < args.experts ? lds(keys + base + lane()) : 0;
        const bool here = (key & 511) == columns;
        int sum = here ? (key >> 9) * across : 0;
        for (int d = 1; d < 32; d *= 2) {
          const int lower = shfl_up(sum, d);
          if (lane() >= d) sum += lower;
        }
        const uint32_t all_here = ballot(here);
        const int at = place + popc(all_here & ((1u << lane()) - 1));
        if (here) {
          sts(list->order() + at, int32_t{base + lane()});
          sts(list->prefix + at + 1, int32_t{before + sum});
        }
        place += popc(all_here);
        before += shfl(sum, 31);
      }
    }
    if (lane() == 0) {
      sts(list->prefix, int32_t{0});
      sts(list->places(), int32_t{place});
    }
  }
  sync();
  list->tiles = lds(list->prefix + lds(list->places()));
}

template <int TN>
SMOE_DEVICE GroupedTile ordered_tile(const GroupedGemmArgs& args, int tile_blocks, const HopperTiles& list, int tile) {
  int place = 0, end = lds(list.places());  // the last with prefix[place] <= tile
  while (end - place > 1) {
    const int middle = (place + end) / 2;
    (lds(list.prefix + middle) <= tile ? place : end) = middle;
  }
  const int e = lds(list.order() + place), local = tile - lds(list.prefix + place);
  const int first = ldg(args.offset + e), rows = ldg(args.offset + e + 1) - first, down = (rows + TN - 1) / TN;
  const int across = local / down, at = local - across * down, each = rows / down, more = rows - each * down;
  const int row0 = first + at * each + (at < more ? at : more);
  return {e, row0, row0 + each + (at < more ? 1 : 0), across * tile_blocks};
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

// --- producers. cp.async writes as generic stores do, wgmma reads through the async proxy, and a proxy fence waits for
// every copy that its thread has in flight. So those who copy x never fence: the warp that copies the weights, in bulk,
// waits for each stage's x, fences, and passes it on, when it begins the stage kHopperLag further on. By then x has
// had the time of a stage to land, and consumers need it only after the stage that they have just begun.

// Past the matrix, at its edges, others stand in, which are finite where the real ones are: rows whose sums nobody
// stores, columns where x is zero.
template <int TN, int M, int W>
SMOE_DEVICE void copy_weights(const GroupedGemmArgs& args, const HopperTiles& list, HopperRing<TN, M, W> ring) {
  using S = HopperShape<TN, M, W>;
  const int atoms = static_cast<int>(atoms_along(args.k)), blocks = grouped_blocks(args);
  const int64_t pitch = off(atoms, 32);
  HopperRing<TN, M, W> behind = ring;
  int pending = 0;  // stages whose x has not been passed on
  const auto pass_on = [&] {
    mbar_wait(behind.copied(behind.stage), behind.parity);
    fence_proxy_async();
    sync_warp();
    if (lane() == 0) mbar_arrive(behind.full(behind.stage));
    behind.advance();
  };
  for (int index = bid(); index < list.tiles; index += nblocks()) {
    const GroupedTile tile = ordered_tile<TN>(args, S::kBlocks, list, index);
    const U32x4* const matrix = ldg(&(args.weights + tile.expert)->atoms);
    const U32x4* from =
        reinterpret_cast<const U32x4*>(shfl(reinterpret_cast<uintptr_t>(matrix + off(tile.block0, pitch)), 0));
    const int beyond = shfl(blocks - tile.block0, 0);  // first block past the matrix
    SMOE_UNROLL1
    for (int atom = 0; atom < atoms; atom += kHopperAtoms) {
      uint64_t* const full = ring.full(shfl(ring.stage, 0));
      mbar_wait(full + 2 * S::kStages, ring.parity ^ 1);
      if (pending == kHopperLag) {
        pass_on();
      } else {
        ++pending;
        fence_proxy_async();
        sync_warp();
      }
      // Behind a fence: what consumers read as generic loads is now written through the async proxy.
      if (lane() == 0) mbar_arrive_expect(full, S::kWeightBytes);
      sync_warp();
      unsigned char* const to = ring.base + shfl(ring.stage, 0) * S::kStageBytes;
      const int real = atoms - atom < kHopperAtoms ? atoms - atom : kHopperAtoms;
      SMOE_UNROLL4
      for (int b = 0; b < S::kBlocks; ++b) {
        bulk_g2s_warp(to + b * (kHopperAtoms * 512), from + (b < beyond ? b : 0) * pitch,
                      static_cast<uint32_t>(real * 512), full);
      }
      SMOE_UNROLL1
      for (int i = real; i < kHopperAtoms; ++i) {
        SMOE_UNROLL1
        for (int b = 0; b < S::kBlocks; ++b) {
          bulk_g2s_warp(to + (b * kHopperAtoms + i) * 512, from + (b < beyond ? b : 0) * pitch, 512, full);
        }
      }
      from += kHopperAtoms * 32;
      ring.advance();
    }
  }
  for (; pending > 0; --pending) pass_on();
}

// Warp w of three copies rows 16 u to 16 u + 15 of x for u = w, w + 3, ..., four rows at a time, a lane chunk
// lane() % 8 of one. Where rows begin is listed in shared memory: a thread has up to 24 of them and few registers.
template <int TN, int M, int W>
SMOE_DEVICE void copy_rows(const GroupedGemmArgs& args, const HopperTiles& list, HopperRing<TN, M, W> ring) {
  using S = HopperShape<TN, M, W>;
  constexpr int kRounds = (S::kRowList + 31) / 32;
  const int atoms = static_cast<int>(atoms_along(args.k));
  const int part = warp() - 1, chunk = lane() % 8, in_four = lane() / 8;
  // Of the first and the third four rows; of the second and the fourth, whose numbers' third bit is set.
  const int place = part * 2048 + in_four * 128 + (chunk ^ in_four) * 16;
  const int turned = part * 2048 + in_four * 128 + (chunk ^ in_four ^ 4) * 16 + 512;
  const unsigned char** const rows = reinterpret_cast<const unsigned char**>(ring.base + S::kRows) + part * S::kRowList;
  const unsigned char* const* const mine = rows + in_four;
  for (int index = bid(); index < list.tiles; index += nblocks()) {
    const GroupedTile tile = ordered_tile<TN>(args, S::kBlocks, list, index);
    const int count = tile.stop - tile.row0, units = (tile_columns<TN>(count) / 16 - part + 2) / 3;
    sync_warp();  // the list of the tile before has been read
    int32_t row[kRounds];
    SMOE_UNROLL
    for (int i = 0; i < kRounds; ++i) {
      int at = 48 * (2 * i + lane() / 16) + 16 * part + lane() % 16;
      if (at >= count) at = 0;  // any that exists: nobody stores what comes of it
      at += tile.row0;
      row[i] = args.gather != nullptr ? ldg(args.gather + at) : at;
    }
    SMOE_UNROLL
    for (int i = 0; i < kRounds; ++i) {
      if (32 * i + lane() >= S::kRowList) continue;
      sts(rows + 32 * i + lane(), reinterpret_cast<const unsigned char*>(args.x.data + off(row[i], args.x_stride)));
    }
    sync_warp();
    SMOE_UNROLL1
    for (int atom = 0; atom < atoms; atom += kHopperAtoms) {
      mbar_wait(ring.empty(ring.stage), ring.parity ^ 1);
      const int k = atom * kAtomCols + chunk * 8;
      const bool inside = k < args.k;
      const uint32_t offset = inside ? 2 * static_cast<uint32_t>(k) : 0;
      unsigned char *even = ring.rows() + place, *odd = ring.rows() + turned;
      // The next four addresses are read while these are used: one by one, each would be waited for.
      const unsigned char* from[4];
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) from[i] = lds(mine + 4 * i);
      SMOE_UNROLL1
      for (int u = 0; u < units; ++u) {
        const unsigned char* const* const ahead = mine + (u + 1 < S::kRowList / 16 ? u + 1 : 0) * 16;
        const unsigned char* next[4];
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) next[i] = lds(ahead + 4 * i);
        SMOE_UNROLL
        for (int i = 0; i < 4; ++i) {
          cp16((i % 2 == 0 ? even : odd) + i / 2 * 1024, from[i] + offset, inside);
          from[i] = next[i];
        }
        even += 3 * 2048, odd += 3 * 2048;
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
  constexpr int kSteps = M * TN > 256 ? 1 : 2;  // of k16 in a group
  const int block = (warp() - 4) * M;           // of the tile
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
  if constexpr (TN == 256) {
    if (columns == 128) return consume<128>(atoms, ring, acc);
    if (columns == 144) return consume<144>(atoms, ring, acc);
    if (columns == 192) return consume<192>(atoms, ring, acc);
    if (columns == 224) return consume<224>(atoms, ring, acc);
  }
  if constexpr (TN == 128 || TN == 64) {
    if (columns == TN / 2) return consume<TN / 2>(atoms, ring, acc);
  }
  consume<TN>(atoms, ring, acc);
}

template <int TN, int M, int W>
SMOE_DEVICE void consume_tiles(const GroupedGemmArgs& args, const HopperTiles& list, HopperRing<TN, M, W> ring) {
  using S = HopperShape<TN, M, W>;
  const int atoms = static_cast<int>(atoms_along(args.k)), group = warp() / 4 - 1;
  unsigned char* const scratch = ring.base + S::kScratch + group * (S::kScratchBytes / W);
  const bool quick = TN >= 32 && stores_groups(args);
  int turn = 0;
  for (int index = bid(); index < list.tiles; index += nblocks()) {
    const GroupedTile tile = ordered_tile<TN>(args, S::kBlocks, list, index);
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
  HopperTiles list = {reinterpret_cast<int32_t*>(shared + S::kPrefix)};
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
  order_tiles<TN>(args, S::kBlocks, reinterpret_cast<int32_t*>(shared + S::kScratch), &list);
  // 128 threads x (40 + 2 x 232) = 384 x 168, the most that three warpgroups can be compiled with.
  constexpr int kProducer = TN == 256 ? 40 : 56, kConsumer = 252 - kProducer / 2;
  if (warp() < 4) {
    fewer_registers<kProducer>();
    if (warp() == 0) {
      copy_weights(args, list, ring);
    } else {
      copy_rows(args, list, ring);
    }
  } else {
    more_registers<kConsumer>();
    consume_tiles(args, list, ring);
  }
  pdl_trigger();
}

}  // namespace smoe::cu
