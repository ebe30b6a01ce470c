// K3 of matrices of any format, activations of three parts.
#include "kernels/experts/down_combine_launch.h"

namespace smoe::cu {

int down_combine_exact(Stream stream, const DownCombineArgs& args) { return down_combine_kind<false, 3>(stream, args); }

}  // namespace smoe::cu
