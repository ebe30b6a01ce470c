// K3 of bf16 matrices, and the choice of a kernel.
#include "kernels/experts/down_combine_launch.h"

namespace smoe::cu {

int launch_down_combine(Stream stream, const DownCombineArgs& args) {
  if (args.max_tokens <= 0 || args.hidden <= 0) return 0;
  if (args.nested.any) return down_combine_nested(stream, args);
  if (args.h.parts == 3) return down_combine_exact(stream, args);
  return args.bf16_only ? down_combine_kind<true, 1>(stream, args) : down_combine_mixed(stream, args);
}

}  // namespace smoe::cu
