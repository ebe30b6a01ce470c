// How large the blocks of K2 and K3 are.
#pragma once

#include "cuda/limits.h"
#include "kernels/cuda_launches.h"
#include "kernels/experts/decode_block.cuh"
#include "kernels/experts/tile_sizes.h"

namespace smoe::cu {

// At most `most` warps: as many as have room on the device, and no fewer than four.
template <class Map>
int fitting_warps(Stream stream, int most, int tiles, const Map& map) {
  int warps = most;
  while (warps > kLeastWarps && decode_shared_bytes(warps, tiles, map) > shared_limit(stream)) warps /= 2;
  return warps;
}

template <int NT, class Args>
int launch_gate_up_block(Stream stream, const GateUpArgs& map, void (*kernel)(Args), const Args& args) {
  const int warps = fitting_warps(stream, kGateUpWarps, NT, map);
  return launch(stream, {map.blocks, 32 * warps, decode_shared_bytes(warps, NT, map), true}, kernel, args);
}

// Blocks are given by the matrix; warps so that 16 are on every SM and all blocks at once: a second wave of a few
// blocks would cost as much as the first. `most` of a block.
template <int NT, class Args>
int launch_down_block(Stream stream, int most, const DownCombineArgs& map, void (*kernel)(Args), const Args& args) {
  const int64_t blocks = row_blocks(map.hidden);
  const int sms = sm_count(stream);
  const int wanted = blocks <= sms ? kDecodeWarps : blocks <= 2 * sms ? kDecodeWarps / 2 : kLeastWarps;
  const int warps = fitting_warps(stream, wanted < most ? wanted : most, NT, map);
  return launch(stream, {blocks, 32 * warps, decode_shared_bytes(warps, NT, map), true}, kernel, args);
}

}  // namespace smoe::cu
