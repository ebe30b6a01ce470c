// K2 of bf16 matrices, and the choice of a kernel.
#include "kernels/experts/gate_up_launch.h"

namespace smoe::cu {

int launch_gate_up(Stream stream, const GateUpArgs& args) {
  if (args.max_tokens <= 0 || args.experts <= 0 || args.width <= 0) return 0;
  if (args.nested.any) return gate_up_nested(stream, args);
  if (args.x.parts == 3) return gate_up_exact(stream, args);
  return args.bf16_only ? gate_up_kind<true, 1>(stream, args) : gate_up_mixed(stream, args);
}

}  // namespace smoe::cu
