// Linear maps of up to 64 rows, weights of 8-bit integers.
#include "kernels/experts/linear_rows_launch.h"

namespace smoe::cu {

int linear_rows_w8(Stream stream, const LinearArgs& args) { return linear_rows_of<LinearCodes<W8Codes>>(stream, args); }

}  // namespace smoe::cu
