// K3 for nvcc.
#include "kernels/experts/down_combine.cuh"

namespace smoe::cu {

// args.max_tokens: 1..64.
int launch_down_combine(Stream stream, const DownArgs& args) {
  const auto shape = [&](int tiles) {
    return Shape{row_blocks(args.hidden), kExpertThreads, down_shared_bytes(tiles), true};
  };
  if (args.max_tokens <= 8) return launch(stream, shape(1), &down_combine<1>, args);
  if (args.max_tokens <= 16) return launch(stream, shape(2), &down_combine<2>, args);
  if (args.max_tokens <= 32) return launch(stream, shape(4), &down_combine<4>, args);
  return launch(stream, shape(8), &down_combine<8>, args);
}

}  // namespace smoe::cu
