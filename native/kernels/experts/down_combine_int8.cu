// K3 with int8 activations: a kernel per number of token tiles.
#include "kernels/experts/down_combine_int8.cuh"

#include "kernels/experts/decode_launch.h"

namespace smoe::cu {
namespace {

template <int NT>
int down_combine_int8_tiles(Stream stream, const DownCombineInt8Args& args) {
  return launch_down_block<NT>(stream, most_down_warps(NT <= 2), args.map, &down_combine_int8<NT>, args);
}

}  // namespace

int launch_down_combine_int8(Stream stream, const DownCombineInt8Args& args) {
  const int tokens = args.map.max_tokens;
  if (tokens <= 0 || args.map.hidden <= 0) return 0;
  const int tiles = decode_tiles(tokens, args.map.slots, args.map.experts);
  if (tiles == 1) return down_combine_int8_tiles<1>(stream, args);
  if (tiles == 2) return down_combine_int8_tiles<2>(stream, args);
  if (tiles == 4) return down_combine_int8_tiles<4>(stream, args);
  return down_combine_int8_tiles<8>(stream, args);
}

}  // namespace smoe::cu
