// K3: a kernel per number of token tiles, and for bf16 alone or for parts.
#include "kernels/experts/down_combine.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

template <int NT>
int launch_tiles(Stream stream, const DownCombineArgs& args) {
  return launch(stream, {row_blocks(args.hidden), kExpertThreads, down_shared_bytes(NT), true},
                args.bf16_only ? &down_combine<NT, true> : &down_combine<NT, false>, args);
}

}  // namespace

int launch_down_combine(Stream stream, const DownCombineArgs& args) {
  if (args.max_tokens <= 0 || args.hidden <= 0) return 0;
  if (args.max_tokens <= 8) return launch_tiles<1>(stream, args);
  if (args.max_tokens <= 16) return launch_tiles<2>(stream, args);
  if (args.max_tokens <= 32) return launch_tiles<4>(stream, args);
  return launch_tiles<8>(stream, args);
}

}  // namespace smoe::cu
