// K3 of matrices with residual planes.
#include "kernels/experts/down_combine_launch.h"

namespace smoe::cu {

int down_combine_nested(Stream stream, const DownCombineArgs& args) {
  return args.h.parts == 3 ? down_combine_kind<false, 3, true>(stream, args)
                           : down_combine_kind<false, 1, true>(stream, args);
}

}  // namespace smoe::cu
