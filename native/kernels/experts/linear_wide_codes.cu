// Linear maps of any number of rows, weights of codes and one bf16 plane of rows.
#include "kernels/experts/linear_wide_codes.cuh"

#include "kernels/experts/linear_tiles_launch.h"

namespace smoe::cu {

// Where the large tiles do not give every SM one, the smaller ones.
int linear_wide_codes_tiles(Stream stream, const LinearArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1, tiles = linear_tiles_count<128>(args);
  if (tiles < blocks) return linear_tiles_codes(stream, args);
  return launch(stream, {blocks, kGemmThreads, CodeShape<128>::kBytes, true}, &linear_wide_codes<128>, args);
}

}  // namespace smoe::cu
