// K3: a kernel per number of token tiles, and per kind of operands, each kind in a .cu of its own: bf16 alone, every
// format with x of one part, every format with x of three, every format with residual planes.
#pragma once

#include "kernels/experts/decode_launch.h"
#include "kernels/experts/down_combine.cuh"

namespace smoe::cu {

template <int NT, bool bf16_only, int XP, bool nested = false>
int down_combine_tiles(Stream stream, const DownCombineArgs& args) {
  return launch_down_block<NT>(stream, most_down_warps(bf16_only ? NT <= 4 : NT * XP <= 2), args,
                               &down_combine<NT, bf16_only, XP, nested>, args);
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

// Experts with residual planes: a size less, as for three parts.
template <int XP>
int down_combine_planes(Stream stream, const DownCombineArgs& args) {
  const int tiles = decode_tiles(args.max_tokens, args.slots, args.experts);
  if (tiles == 1) return down_combine_tiles<1, false, XP, true>(stream, args);
  if constexpr (XP == 1) {
    if (tiles <= 4) return down_combine_tiles<4, false, XP, true>(stream, args);
  }
  return down_combine_tiles<8, false, XP, true>(stream, args);
}

int down_combine_mixed(Stream stream, const DownCombineArgs& args);
int down_combine_exact(Stream stream, const DownCombineArgs& args);
int down_combine_nested(Stream stream, const DownCombineArgs& args);

}  // namespace smoe::cu
