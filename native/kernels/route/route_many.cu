// P1.
#include "kernels/route/route_many.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_route_many(Stream stream, const RouteManyArgs& args) {
  if (args.tokens <= 0) return 0;
  if (!route_many_fits(args)) return 1;  // cudaErrorInvalidValue
  const Shape shape{(args.tokens + kRouteManyTokens - 1) / kRouteManyTokens, kManyThreads,
                    route_many_shared_bytes(args.config.experts), true};
  // A row block for every warp, or else the tiles apart.
  const bool many_rows = args.config.experts > kRouterRows * (kManyWarps / 2);
  if (args.w_f32) {
    return many_rows ? launch(stream, shape, &route_many<float, kManyTiles>, args)
                     : launch(stream, shape, &route_many<float, 1>, args);
  }
  return many_rows ? launch(stream, shape, &route_many<bf16, kManyTiles>, args)
                   : launch(stream, shape, &route_many<bf16, 1>, args);
}

}  // namespace smoe::cu
