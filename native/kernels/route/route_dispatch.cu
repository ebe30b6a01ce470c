// K1: weights in bf16 or f32.
#include "kernels/route/route_dispatch.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

int launch_route_dispatch(Stream stream, const RouteDispatchArgs& args) {
  const int64_t experts = args.config.experts;
  if (experts <= 0) return 0;
  return launch(stream, {route_blocks(experts, args.splits), kRouteThreads, route_shared_bytes(experts), true},
                args.w_f32 ? &route_dispatch<float> : &route_dispatch<bf16>, args);
}

int launch_dispatch_given(Stream stream, const DispatchGivenArgs& args) {
  if (args.experts <= 0) return 0;
  return launch(stream, {1, kRouteThreads, dispatch_shared_bytes(args.experts), true}, &dispatch_given, args);
}

}  // namespace smoe::cu
