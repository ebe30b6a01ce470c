// How a block of K2 or K3 shares its work among its warps. K of a matrix is cut into slices; a slice of one row block
// of one expert is an item. Warps take items in turn and meet after each round of one each, where the slices of a row
// block are added up in order. So a warp has a long run of atoms at a time whatever K is, and what an item costs beside
// its atoms is paid by one warp. Slices are a function of K alone: the order of additions does not depend on the batch.
#pragma once

#include "kernels/experts/active_list.cuh"
#include "kernels/experts/atom_stream.cuh"

namespace smoe::cu {

// Warps of a block: at most, at least, and of K2. Their number does not show in the bits.
constexpr int kDecodeWarps = 16, kLeastWarps = 4, kGateUpWarps = 8;

// Sums of a warp's item, [tile][16 rows][8 columns]: with a pitch of 10, 16 rows of two columns meet no bank twice.
constexpr int kSumPitch = 10, kTileSums = kAtomRows * kSumPitch;

// 16 warps are meant to be on an SM at a time: with a batch of eight atoms, 64 KB under way while as many are
// multiplied; with eight tiles half of that, which still is what latency asks for. Together with the sums and a
// list of 1024 experts, 20 KB, a block of eight warps fits the 99 KB of sm_86.
// Buffers of a round's sums: with two, warps may be a round apart.
SMOE_HD constexpr int decode_buffers(int tiles) { return tiles == 1 ? 2 : 1; }
SMOE_HD constexpr int decode_sums(int warps, int tiles) { return decode_buffers(tiles) * warps * tiles * kTileSums; }

// Of K3: a sum for each of 64 tokens and 16 columns.
constexpr int kDownSums = kDispatchMaxTokens * kAtomRows;

// Map: GateUpArgs, DownCombineArgs.
template <class Map>
size_t decode_shared_bytes(int warps, int tiles, const Map& map) {
  return stream_bytes(warps, batch_steps(tiles)) +
         static_cast<size_t>(decode_sums(warps, tiles) + kDownSums) * sizeof(float) +
         active_bytes(map.experts, map.max_tokens, map.slots, tiles);
}

SMOE_DEVICE int warps() { return nthreads() / 32; }

// What decode_shared_bytes() counts.
template <int NT>
struct DecodeShared {
  U32x4* ring;
  float *sums, *down;
  ActiveList<NT> list;
  template <class Map>
  SMOE_DEVICE DecodeShared(unsigned char* base, const Map& map)
      : ring(reinterpret_cast<U32x4*>(base)),
        sums(reinterpret_cast<float*>(base + warps() * kStreamBatches * batch_steps(NT) * 512)),
        down(sums + decode_sums(warps(), NT)),
        list(reinterpret_cast<unsigned char*>(down + kDownSums), map.experts, map.max_tokens, map.slots) {}
  // Of item `item` of a round.
  SMOE_DEVICE float* sums_of(int buffer, int item) const { return sums + (buffer * warps() + item) * NT * kTileSums; }
};

template <int NT, class Parts = NoPlanes>
using DecodeStream = AtomStream<batch_steps(NT), ItemRuns<NT, Parts>>;

// 1 << shift slices, four at most, of at least `least` columns.
SMOE_DEVICE int slice_shift(int64_t k, int64_t least) {
  int shift = 0;
  while (shift < 2 && k >= (2 * least) << shift) ++shift;
  return shift;
}

// multiply(item, sums): one warp, for the items [0, items). finish(item of the round's first, buffer): all warps.
template <int NT, class Multiply, class Finish>
SMOE_DEVICE void decode_rounds(const DecodeShared<NT>& shared, int items, Multiply multiply, Finish finish) {
  int buffer = 0;
  SMOE_UNROLL1
  for (int base = 0; base < items; base += warps()) {
    if (base + warp() < items) multiply(base + warp(), shared.sums_of(buffer, warp()));
    sync();
    finish(base, buffer);
    if (decode_buffers(NT) == 1) sync();
    buffer = (buffer + 1) % decode_buffers(NT);
  }
}

// A warp's sums, [NT] tiles of them in shared memory.
template <int NT>
SMOE_DEVICE void share_sums(const float (&acc)[NT][4], int tiles, float* sums) {
  SMOE_UNROLL
  for (int tile = 0; tile < NT; ++tile) {
    if (tile >= tiles) break;
    SMOE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Element at = c_element(lane(), 2 * half);
      sts(reinterpret_cast<U32x2*>(sums + tile * kTileSums + at.row * kSumPitch + at.col),
          U32x2{{bit_cast<uint32_t>(acc[tile][2 * half]), bit_cast<uint32_t>(acc[tile][2 * half + 1])}});
    }
  }
}

}  // namespace smoe::cu
