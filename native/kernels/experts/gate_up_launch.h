// K2: a kernel per number of token tiles, and per kind of operands, each kind in a .cu of its own: bf16 alone, every
// format with x of one part, every format with x of three, every format with residual planes.
#pragma once

#include "kernels/experts/decode_launch.h"
#include "kernels/experts/gate_up.cuh"

namespace smoe::cu {

template <int NT, bool bf16_only, int XP, bool nested = false>
int gate_up_tiles(Stream stream, const GateUpArgs& args) {
  return launch_gate_up_block<NT>(stream, args, &gate_up<NT, bf16_only, XP, nested>, args);
}

template <bool bf16_only, int XP>
int gate_up_kind(Stream stream, const GateUpArgs& args) {
  const int tiles = decode_tiles(args.max_tokens, args.slots, args.experts);
  if (tiles == 1) return gate_up_tiles<1, bf16_only, XP>(stream, args);
  // In three parts, exactness is worth one kernel for decoding and one for the rest.
  if constexpr (XP == 1) {
    if (tiles == 2) return gate_up_tiles<2, bf16_only, XP>(stream, args);
    if (tiles == 4) return gate_up_tiles<4, bf16_only, XP>(stream, args);
  }
  return gate_up_tiles<8, bf16_only, XP>(stream, args);
}

// Experts with residual planes: a size less, as for three parts.
template <int XP>
int gate_up_planes(Stream stream, const GateUpArgs& args) {
  const int tiles = decode_tiles(args.max_tokens, args.slots, args.experts);
  if (tiles == 1) return gate_up_tiles<1, false, XP, true>(stream, args);
  if constexpr (XP == 1) {
    if (tiles <= 4) return gate_up_tiles<4, false, XP, true>(stream, args);
  }
  return gate_up_tiles<8, false, XP, true>(stream, args);
}

int gate_up_mixed(Stream stream, const GateUpArgs& args);
int gate_up_exact(Stream stream, const GateUpArgs& args);
int gate_up_nested(Stream stream, const GateUpArgs& args);

}  // namespace smoe::cu
