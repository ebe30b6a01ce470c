// P5.
#include "kernels/combine/combine_rows.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_combine_rows(Stream stream, const CombineRowsArgs& args) {
  if (args.tokens <= 0 || args.hidden <= 0) return 0;
  const int64_t blocks = args.tokens * combine_columns_blocks(args.hidden);
  const Shape shape{blocks, kCombineThreads, combine_shared_bytes(args.slots), true};
  const bool wide = args.hidden % kCombineEach == 0;
  if (args.y != nullptr) {
    return wide ? launch(stream, shape, &combine_rows<bf16, true>, args)
                : launch(stream, shape, &combine_rows<bf16, false>, args);
  }
  return wide ? launch(stream, shape, &combine_rows<float, true>, args)
              : launch(stream, shape, &combine_rows<float, false>, args);
}

}  // namespace smoe::cu
