// K3: a kernel per number of token tiles, and per kind of operands, each kind in a .cu of its own: bf16 alone, every
// format with x of one part, every format with x of three, every format with residual planes.
#pragma once

#include "kernels/experts/decode_launch.h"
#include "kernels/experts/down_combine.cuh"

namespace smoe::cu {

template <bool bf16_only, int XP, bool nested = false>
int down_combine_kind(Stream stream, const DownCombineArgs& args) {
  return with_tiles_of<XP, nested>(decode_tiles(args.max_tokens, args.slots, args.experts), [&](auto tiles) {
    constexpr int NT = decltype(tiles)::value;
    return launch_down_block<NT>(stream, most_down_warps(bf16_only ? NT <= 4 : NT * XP <= 2), args,
                                 &down_combine<NT, bf16_only, XP, nested>, args);
  });
}

int down_combine_mixed(Stream stream, const DownCombineArgs& args);
int down_combine_exact(Stream stream, const DownCombineArgs& args);
int down_combine_nested(Stream stream, const DownCombineArgs& args);

}  // namespace smoe::cu
