// Linear maps of up to 64 rows, weights of E4M3 floats.
#include "kernels/experts/linear_rows_launch.h"

namespace smoe::cu {

int linear_rows_f8(Stream stream, const LinearArgs& args) { return linear_rows_of<LinearCodes<F8Codes>>(stream, args); }

}  // namespace smoe::cu
