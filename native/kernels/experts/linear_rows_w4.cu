// Linear maps of up to 64 rows, weights of 4-bit integers.
#include "kernels/experts/linear_rows_launch.h"

namespace smoe::cu {

int linear_rows_w4(Stream stream, const LinearArgs& args) { return linear_rows_of<LinearCodes<W4Codes>>(stream, args); }

}  // namespace smoe::cu
