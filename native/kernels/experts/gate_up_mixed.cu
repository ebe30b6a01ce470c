// K2 of matrices of any format, activations of one part.
#include "kernels/experts/gate_up_launch.h"

namespace smoe::cu {

int gate_up_mixed(Stream stream, const GateUpArgs& args) { return gate_up_kind<false, 1>(stream, args); }

}  // namespace smoe::cu
