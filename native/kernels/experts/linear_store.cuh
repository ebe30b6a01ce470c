// What follows the sum of a linear map, for one output: linear_rows and linear_tiles.
#pragma once

#include <math.h>

#include "cuda/cu.h"
#include "kernels/experts/expert_args.h"
#include "kernels/norm/planes.cuh"

namespace smoe::cu {

SMOE_DEVICE int64_t linear_tokens(const LinearArgs& args) {
  const int64_t real = args.num_tokens != nullptr ? ldg(args.num_tokens) : args.max_tokens;
  return real < args.max_tokens ? real : args.max_tokens;
}

SMOE_DEVICE void linear_store(const LinearArgs& args, int map, int64_t feature, int64_t token, float y) {
  if (args.bias != nullptr) y += ldg(args.bias + off(map, args.rows) + feature);
  if (args.sigmoid) y = 1 / (1 + expf(-y));
  const int64_t at = off(token, args.out_stride) + off(map, args.out_step) + feature;
  if (args.residual != nullptr) y += ldg(args.residual + at);
  if (args.out != nullptr) stg(args.out + at, y);
  if (args.out_planes.data != nullptr) store_parts(args.out_planes, at, y);
}

}  // namespace smoe::cu
