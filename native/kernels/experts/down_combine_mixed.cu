// K3 of matrices of any format, activations of one part.
#include "kernels/experts/down_combine_launch.h"

namespace smoe::cu {

int down_combine_mixed(Stream stream, const DownCombineArgs& args) { return down_combine_kind<false, 1>(stream, args); }

}  // namespace smoe::cu
