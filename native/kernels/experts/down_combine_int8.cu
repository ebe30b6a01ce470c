// K3 with int8 activations: a kernel per number of token tiles.
#include "kernels/experts/down_combine_int8.cuh"

#include "kernels/experts/decode_launch.h"

namespace smoe::cu {

int launch_down_combine_int8(Stream stream, const DownCombineInt8Args& args) {
  const int tokens = args.map.max_tokens;
  if (tokens <= 0 || args.map.hidden <= 0) return 0;
  const int tiles = decode_tiles(tokens, args.map.slots, args.map.experts);
  return with_tiles<1, 2, 4, 8>(tiles, [&](auto count) {
    constexpr int NT = decltype(count)::value;
    return launch_down_block<NT>(stream, most_down_warps(NT <= 2), args.map, &down_combine_int8<NT>, args);
  });
}

}  // namespace smoe::cu
