// Linear maps of any number of rows for nvcc.
#include "kernels/experts/linear_tiles.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <int TN>
int64_t tiles_of(const LinearArgs& args) {
  return args.batch * ((row_blocks(args.rows) + kGemmBlocks - 1) / kGemmBlocks) * ((args.max_tokens + TN - 1) / TN);
}

template <int TN>
int launch_tiles(Stream stream, const LinearArgs& args, int64_t blocks) {
  const int64_t tiles = tiles_of<TN>(args);
  return launch(stream, {blocks < tiles ? blocks : tiles, kGemmThreads, GemmShape<TN>::kBytes, true}, &linear_tiles<TN>,
                args);
}

}  // namespace

int launch_linear_tiles(Stream stream, const LinearArgs& args) {
  if (args.max_tokens <= 0 || args.rows <= 0 || args.batch <= 0) return 0;
  if (args.weight.format != AtomFormat::Bf16 && args.weight.format != AtomFormat::Bf16x3) return kInvalidValue;
  if (args.x.parts != 1 && args.x.parts != 3) return kInvalidValue;
  // The large tile where it gives every SM one; else more, smaller ones.
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  return tiles_of<128>(args) >= blocks ? launch_tiles<128>(stream, args, blocks)
                                       : launch_tiles<32>(stream, args, blocks);
}

}  // namespace smoe::cu
