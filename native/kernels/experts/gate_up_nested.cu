// K2 of matrices with residual planes.
#include "kernels/experts/gate_up_launch.h"

namespace smoe::cu {

int gate_up_nested(Stream stream, const GateUpArgs& args) {
  return args.x.parts == 3 ? gate_up_kind<false, 3, true>(stream, args) : gate_up_kind<false, 1, true>(stream, args);
}

}  // namespace smoe::cu
