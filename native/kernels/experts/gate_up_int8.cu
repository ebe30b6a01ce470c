// K2 with int8 activations: a kernel per number of token tiles.
#include "kernels/experts/gate_up_int8.cuh"

#include "kernels/experts/decode_launch.h"

namespace smoe::cu {

int launch_gate_up_int8(Stream stream, const GateUpInt8Args& args) {
  const int tokens = args.map.max_tokens;
  if (tokens <= 0 || args.map.experts <= 0 || args.map.width <= 0) return 0;
  const int tiles = decode_tiles(tokens, args.map.slots, args.map.experts);
  return with_tiles<1, 2, 4, 8>(tiles, [&](auto count) {
    constexpr int NT = decltype(count)::value;
    return launch_gate_up_block<NT>(stream, args.map, &gate_up_int8<NT>, args);
  });
}

}  // namespace smoe::cu
