// K3: a kernel per number of token tiles, and per kind of operands, each kind in a .cu of its own: bf16 alone, every
// format with x of one part, every format with x of three.
#pragma once

#include "cuda/limits.h"
#include "kernels/cuda_launches.h"
#include "kernels/experts/down_combine.cuh"

namespace smoe::cu {

// Warps of a block, so that 16 of them are on every SM and all blocks at once: a second wave of a few blocks would cost
// as much as the first.
inline int down_warps(Stream stream, int most, int tiles, int64_t blocks, const DownCombineArgs& map) {
  const int sms = sm_count(stream);
  int warps = blocks <= sms ? kExpertWarps : blocks <= 2 * sms ? kExpertWarps / 2 : kLeastDownWarps;
  if (warps > most) warps = most;
  while (warps > kLeastDownWarps && decode_shared_bytes(warps, tiles, map) > shared_limit(stream)) warps /= 2;
  return warps;
}

template <int NT, bool light, class Args>
int launch_down(Stream stream, const DownCombineArgs& map, void (*kernel)(Args), const Args& args) {
  const int64_t blocks = row_blocks(map.hidden);
  const int warps = down_warps(stream, most_down_warps(light), NT, blocks, map);
  return launch(stream, {blocks, 32 * warps, decode_shared_bytes(warps, NT, map), true}, kernel, args);
}

template <int NT, bool bf16_only, int XP>
int down_combine_tiles(Stream stream, const DownCombineArgs& args) {
  return launch_down<NT, (bf16_only ? NT <= 4 : NT * XP <= 2)>(stream, args, &down_combine<NT, bf16_only, XP>, args);
}

template <bool bf16_only, int XP>
int down_combine_kind(Stream stream, const DownCombineArgs& args) {
  const int tiles = decode_tiles(args.max_tokens, args.slots, args.experts);
  if (tiles == 1) return down_combine_tiles<1, bf16_only, XP>(stream, args);
  // In three parts, exactness is worth one kernel for decoding and one for the rest.
  if constexpr (XP == 1) {
    if (tiles == 2) return down_combine_tiles<2, bf16_only, XP>(stream, args);
    if (tiles == 4) return down_combine_tiles<4, bf16_only, XP>(stream, args);
  }
  return down_combine_tiles<8, bf16_only, XP>(stream, args);
}

int down_combine_mixed(Stream stream, const DownCombineArgs& args);
int down_combine_exact(Stream stream, const DownCombineArgs& args);

}  // namespace smoe::cu
