// K2 with int8 activations: a kernel per number of token tiles.
#include "kernels/experts/gate_up_int8.cuh"

#include "kernels/experts/decode_launch.h"

namespace smoe::cu {
namespace {

template <int NT>
int gate_up_int8_tiles(Stream stream, const GateUpInt8Args& args) {
  return launch_gate_up_block<NT>(stream, args.map, &gate_up_int8<NT>, args);
}

}  // namespace

int launch_gate_up_int8(Stream stream, const GateUpInt8Args& args) {
  const int tokens = args.map.max_tokens;
  if (tokens <= 0 || args.map.experts <= 0 || args.map.width <= 0) return 0;
  const int tiles = decode_tiles(tokens, args.map.slots, args.map.experts);
  if (tiles == 1) return gate_up_int8_tiles<1>(stream, args);
  if (tiles == 2) return gate_up_int8_tiles<2>(stream, args);
  if (tiles == 4) return gate_up_int8_tiles<4>(stream, args);
  return gate_up_int8_tiles<8>(stream, args);
}

}  // namespace smoe::cu
