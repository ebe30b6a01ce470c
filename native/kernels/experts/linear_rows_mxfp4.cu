// Linear maps of up to 64 rows, weights of E2M1 floats.
#include "kernels/experts/linear_rows_launch.h"

namespace smoe::cu {

int linear_rows_mxfp4(Stream stream, const LinearArgs& args) {
  return linear_rows_of<LinearCodes<Mxfp4Codes>>(stream, args);
}

}  // namespace smoe::cu
