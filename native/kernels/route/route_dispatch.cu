// K1: weights in bf16 or f32.
#include "kernels/route/route_dispatch.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

namespace {

template <int M, int R>
int launch_k1(Stream stream, const RouteDispatchArgs& args) {
  const int64_t experts = args.config.experts;
  const int64_t groups = (args.max_tokens + route_group(M) - 1) / route_group(M);
  return launch(stream,
                {route_blocks(experts, args.splits) * (groups > 0 ? groups : 1), kRouteThreads,
                 route_shared_bytes<M>(experts), true},
                args.w_f32 ? &route_dispatch<float, M, R> : &route_dispatch<bf16, M, R>, args);
}

}  // namespace

int launch_route_dispatch(Stream stream, const RouteDispatchArgs& args) {
  const int64_t experts = args.config.experts;
  if (experts <= 0) return 0;
  if (route_row_tiles(experts) == 1) return launch_k1<1, 4>(stream, args);
  return experts <= 256 ? launch_k1<2, 8>(stream, args) : launch_k1<2, 32>(stream, args);
}

int launch_dispatch_given(Stream stream, const DispatchGivenArgs& args) {
  if (args.experts <= 0) return 0;
  return launch(stream, {1, kRouteThreads, dispatch_shared_bytes(args.experts), true}, &dispatch_given, args);
}

}  // namespace smoe::cu
