// K2: a kernel per number of token tiles, and per kind of operands, each kind in a .cu of its own: bf16 alone, every
// format with x of one part, every format with x of three, every format with residual planes.
#pragma once

#include "kernels/experts/decode_launch.h"
#include "kernels/experts/gate_up.cuh"

namespace smoe::cu {

template <bool bf16_only, int XP, bool nested = false>
int gate_up_kind(Stream stream, const GateUpArgs& args) {
  return with_tiles_of<XP, nested>(decode_tiles(args.max_tokens, args.slots, args.experts), [&](auto tiles) {
    constexpr int NT = decltype(tiles)::value;
    return launch_gate_up_block<NT>(stream, args, &gate_up<NT, bf16_only, XP, nested>, args);
  });
}

int gate_up_mixed(Stream stream, const GateUpArgs& args);
int gate_up_exact(Stream stream, const GateUpArgs& args);
int gate_up_nested(Stream stream, const GateUpArgs& args);

}  // namespace smoe::cu
