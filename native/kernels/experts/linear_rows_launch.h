// Linear maps of up to 64 rows: kernels per number of token tiles and per parts of x, those of each format of codes in
// a .cu of its own.
#pragma once

#include "kernels/cuda_launches.h"
#include "kernels/experts/linear_rows.cuh"
#include "kernels/experts/tile_sizes.h"

namespace smoe::cu {

template <class Weights, int NT, int XP>
int linear_rows_tiles(Stream stream, const LinearArgs& args) {
  const int64_t units = args.batch * row_blocks(args.rows), blocks = args.blocks > 0 ? args.blocks : 1;
  const Shape shape = {blocks < units ? blocks : units, kLinearThreads, linear_rows_shared_bytes(NT), true};
  return launch(stream, shape, &linear_rows<Weights, NT, XP>, args);
}

template <class Weights>
int linear_rows_of(Stream stream, const LinearArgs& args) {
  const int tiles = static_cast<int>((args.max_tokens + 7) / 8);
  if (args.x.parts == 1) {
    return with_tiles_of<1, false>(
        tiles, [&](auto count) { return linear_rows_tiles<Weights, decltype(count)::value, 1>(stream, args); });
  }
  return with_tiles_of<3, false>(
      tiles, [&](auto count) { return linear_rows_tiles<Weights, decltype(count)::value, 3>(stream, args); });
}

int linear_rows_w8(Stream stream, const LinearArgs& args);
int linear_rows_w4(Stream stream, const LinearArgs& args);
int linear_rows_t2(Stream stream, const LinearArgs& args);
int linear_rows_f8(Stream stream, const LinearArgs& args);
int linear_rows_mxfp4(Stream stream, const LinearArgs& args);

}  // namespace smoe::cu
