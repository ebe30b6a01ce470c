// Linear maps of up to 64 rows for nvcc.
#include "kernels/experts/linear_rows.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

template <int NT>
int launch_tiles(Stream stream, const LinearArgs& args) {
  const int64_t units = args.batch * row_blocks(args.rows), blocks = args.blocks > 0 ? args.blocks : 1;
  const Shape shape = {blocks < units ? blocks : units, kLinearThreads, linear_rows_shared_bytes(NT), true};
  const bool split = args.weight.format == AtomFormat::Bf16x3;
  if (args.x.parts == 1) {
    return split ? launch(stream, shape, &linear_rows<NT, 3, 1>, args)
                 : launch(stream, shape, &linear_rows<NT, 1, 1>, args);
  }
  return split ? launch(stream, shape, &linear_rows<NT, 3, 3>, args)
               : launch(stream, shape, &linear_rows<NT, 1, 3>, args);
}

// x is read two columns at a time.
bool supported(const LinearArgs& args) {
  if (args.weight.format != AtomFormat::Bf16 && args.weight.format != AtomFormat::Bf16x3) return false;
  if (args.x.parts != 1 && args.x.parts != 3) return false;
  return args.max_tokens <= 64 && args.x_stride % 2 == 0 && args.x_step % 2 == 0 &&
         (args.x.parts == 1 || args.x.step % 2 == 0);
}

}  // namespace

int launch_linear_rows(Stream stream, const LinearArgs& args) {
  if (args.max_tokens <= 0 || args.rows <= 0 || args.batch <= 0) return 0;
  if (!supported(args)) return kInvalidValue;
  if (args.max_tokens <= 8) return launch_tiles<1>(stream, args);
  if (args.max_tokens <= 16) return launch_tiles<2>(stream, args);
  if (args.max_tokens <= 32) return launch_tiles<4>(stream, args);
  return launch_tiles<8>(stream, args);
}

}  // namespace smoe::cu
