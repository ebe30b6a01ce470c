// K2: a kernel per number of token tiles, and for bf16 alone or for parts.
#include "kernels/experts/gate_up.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

template <int NT>
int launch_tiles(Stream stream, const GateUpArgs& args) {
  return launch(stream, {args.blocks, kExpertThreads, gate_up_shared_bytes(NT), true},
                args.bf16_only ? &gate_up<NT, true> : &gate_up<NT, false>, args);
}

}  // namespace

int launch_gate_up(Stream stream, const GateUpArgs& args) {
  if (args.max_tokens <= 0 || args.experts <= 0 || args.width <= 0) return 0;
  if (args.max_tokens <= 8) return launch_tiles<1>(stream, args);
  if (args.max_tokens <= 16) return launch_tiles<2>(stream, args);
  if (args.max_tokens <= 32) return launch_tiles<4>(stream, args);
  return launch_tiles<8>(stream, args);
}

}  // namespace smoe::cu
