// Linear maps of any number of rows, weights of codes, whose rows no wide tile can read: of three parts, or of odd
// width.
#include "kernels/experts/linear_tiles_launch.h"

namespace smoe::cu {

// Half the rows of the large tile of parts, as groups are summed in accumulators of their own.
int linear_tiles_codes(Stream stream, const LinearArgs& args) {
  return linear_tiles_of<64, true>(stream, args, args.blocks > 0 ? args.blocks : 1);
}

}  // namespace smoe::cu
