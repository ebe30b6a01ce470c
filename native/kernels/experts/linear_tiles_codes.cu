// Linear maps of any number of rows, weights of codes.
#include "kernels/experts/linear_tiles_launch.h"

namespace smoe::cu {

int linear_tiles_codes(Stream stream, const LinearArgs& args) { return linear_tiles_kind<true>(stream, args); }

}  // namespace smoe::cu
