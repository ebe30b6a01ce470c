// K2 of matrices of any format, activations of three parts.
#include "kernels/experts/gate_up_launch.h"

namespace smoe::cu {

int gate_up_exact(Stream stream, const GateUpArgs& args) { return gate_up_kind<false, 3>(stream, args); }

}  // namespace smoe::cu
