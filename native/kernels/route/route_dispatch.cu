// K1 for nvcc: weights and inputs in bf16 or f32.
#include "kernels/route/route_dispatch.cuh"

namespace smoe::cu {

template <class W, class X>
int launch_route_dispatch(Stream stream, const RouteDispatchArgs<W, X>& args) {
  const int64_t experts = args.config.experts;
  return launch(stream, {route_blocks(experts, args.splits), kRouteThreads, route_shared_bytes(experts), true},
                &route_dispatch<W, X>, args);
}

template int launch_route_dispatch(Stream, const RouteDispatchArgs<bf16, bf16>&);
template int launch_route_dispatch(Stream, const RouteDispatchArgs<bf16, float>&);
template int launch_route_dispatch(Stream, const RouteDispatchArgs<float, bf16>&);
template int launch_route_dispatch(Stream, const RouteDispatchArgs<float, float>&);

int launch_dispatch_given(Stream stream, const DispatchGivenArgs& args) {
  return launch(stream, {1, kRouteThreads, dispatch_shared_bytes(args.experts), true}, &dispatch_given, args);
}

}  // namespace smoe::cu
