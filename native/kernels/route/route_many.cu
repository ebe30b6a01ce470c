// P1.
#include "kernels/route/route_many.cuh"

#include "kernels/cuda_launches.h"

namespace smoe::cu {

namespace {

template <class W, int M, int N, int E>
int launch_sums(Stream stream, const RouteManyArgs& args) {
  using Tile = ManyTile<W, M, N, E>;
  const int64_t experts = args.config.experts, walks = (args.splits + args.run - 1) / args.run;
  const int64_t blocks =
      (args.tokens + Tile::kTokens - 1) / Tile::kTokens * walks * ((experts + Tile::kRows - 1) / Tile::kRows);
  return launch(stream, {blocks, kManyThreads, Tile::kBytes, true}, &route_many<W, M, N, E>, args);
}

template <class W>
int launch_sums(Stream stream, const RouteManyArgs& args) {
  switch (route_many_rows(args.config.experts)) {
    case 16:
      return launch_sums<W, 1, 1, 1>(stream, args);
    case 64:
      return launch_sums<W, 2, 2, 2>(stream, args);
    default:
      return launch_sums<W, 4, 2, 2>(stream, args);
  }
}

template <int R>
int launch_select(Stream stream, const RouteManyArgs& args) {
  const Shape shape{(args.tokens + kRouteManyTokens - 1) / kRouteManyTokens, kSelectThreads<R>,
                    route_select_shared_bytes<R>(args.config.experts), true};
  return launch(stream, shape, &route_select<R>, args);
}

}  // namespace

int launch_route_many(Stream stream, const RouteManyArgs& given) {
  if (given.tokens <= 0) return 0;
  if (!route_many_fits(given)) return 1;  // cudaErrorInvalidValue
  const int64_t experts = given.config.experts;
  RouteManyArgs args = given;
  args.run = route_many_run(args.tokens, experts, args.splits);
  const int error = args.w_f32 ? launch_sums<float>(stream, args) : launch_sums<bf16>(stream, args);
  if (error != 0) return error;
  if (experts <= 128) return launch_select<4>(stream, args);
  return experts <= 256 ? launch_select<8>(stream, args) : launch_select<32>(stream, args);
}

}  // namespace smoe::cu
