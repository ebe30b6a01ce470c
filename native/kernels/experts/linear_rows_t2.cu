// Linear maps of up to 64 rows, weights of 2-bit codes.
#include "kernels/experts/linear_rows_launch.h"

namespace smoe::cu {

int linear_rows_t2(Stream stream, const LinearArgs& args) { return linear_rows_of<LinearCodes<T2Codes>>(stream, args); }

}  // namespace smoe::cu
