// After the projections of latent attention (DeepSeek-V2, arXiv 2405.04434): the latent's norm and the shared key
// part's rotation, into the cache; the rotated part of every query head; the rest of the queries as planes for key_up.
// A warp takes a query head or the latent, a block eight of them of one token.
#pragma once

#include "kernels/attention/head_finish.cuh"
#include "kernels/attention/kv_pages.cuh"
#include "kernels/norm/planes.cuh"
#include "kernels/norm/prefetch.cuh"

namespace smoe::cu {

SMOE_HD int latent_units(const LatentFinishArgs& args) { return (args.heads + 1 + kFinishWarps - 1) / kFinishWarps; }

// store(i, value) of a rotated part. Interleaved pairs end half a part from each other, as decoder/latent_attention.cc
// leaves them: queries and keys alike, so their products do not notice.
template <class Store>
SMOE_DEVICE void rotate_part(const RopeArgs& rope, const float* angles, const float* from, int dim, Store store) {
  const int half = rope.half;
  for (int i = lane(); i < half; i += 32) {
    const float a = ldg(from + (rope.interleaved ? 2 * i : i)),
                b = ldg(from + (rope.interleaved ? 2 * i + 1 : half + i));
    const float c = lds(angles + i), s = lds(angles + half + i);
    store(i, a * c - b * s);
    store(half + i, b * c + a * s);
  }
  for (int i = 2 * half + lane(); i < dim; i += 32) store(i, ldg(from + i));
}

SMOE_DEVICE NormFactor latent_norm(const LatentFinishArgs& args, const float* x) {
  float scale = 1, squares = 0;
  for (int attempt = 0; attempt < 2; ++attempt) {
    squares = 0;
    SMOE_UNROLL4
    for (int i = lane(); i < args.kv_rank; i += 32) {
      const float value = ldg(x + i) * scale;
      squares = fma(value, value, squares);
    }
    squares = warp_sum(squares);
    if (squares <= 3.402823466e38f) break;  // the same in every lane
    scale = kNormRescue;
  }
  return norm_factor(squares, scale, args.kv_rank, args.norm_eps);
}

template <class T>
SMOE_DEVICE void finish_latent(const LatentFinishArgs& args, int64_t token, int64_t position, const float* angles) {
  const float* const x = args.kv + off(token, args.kv_rank + args.rope_dim);
  T* const part = kv_part<T>(args.cache, position / kPageTokens);
  T* const to = key_row(args.cache, part, 0, static_cast<int>(position % kPageTokens));
  const NormFactor factor = latent_norm(args, x);
  SMOE_UNROLL4
  for (int i = lane(); i < args.kv_rank; i += 32)
    put_element(to + i, ldg(x + i) * factor.scale * factor.root * ldg(args.kv_norm + i));
  rotate_part(args.rope, angles, x + args.kv_rank, args.rope_dim,
              [&](int i, float value) { put_element(to + args.kv_rank + i, value); });
}

SMOE_DEVICE void finish_query(const LatentFinishArgs& args, int64_t token, int head, const float* angles) {
  const int64_t at = off(token, args.heads) + head, plain = off(at, args.nope_dim);
  const float* const x = args.q + off(at, args.nope_dim + args.rope_dim);
  float* const latent = args.q_latent + off(at, args.kv_rank + args.rope_dim) + args.kv_rank;
  rotate_part(args.rope, angles, x + args.nope_dim, args.rope_dim, [&](int i, float value) { stg(latent + i, value); });
  if ((args.nope_dim | args.rope_dim | args.q_nope.step) % 2 == 0) {
    for (int i = 2 * lane(); i < args.nope_dim; i += 64) {
      const U32x2 two = ldg(reinterpret_cast<const U32x2*>(x + i));
      store_parts2(args.q_nope, plain + i, bit_cast<float>(two.x[0]), bit_cast<float>(two.x[1]));
    }
  } else {
    for (int i = lane(); i < args.nope_dim; i += 32) store_parts(args.q_nope, plain + i, ldg(x + i));
  }
}

template <class T>
SMOE_KERNEL(kFinishThreads, 2)
latent_finish(LatentFinishArgs args) {
  SMOE_SMEM_DYN(float, angles);
  const int units = latent_units(args), item = bid() % units * kFinishWarps + warp();
  const int64_t token = bid() / units, tokens = ldg(&args.step->tokens);
  const int64_t position = int64_t{ldg(&args.step->position)} + token;
  if (bid() == 0) prefetch_constants(args.kv_norm, args.kv_rank);
  make_angles(args.rope, position, angles);
  pdl_wait();
  pdl_trigger();
  if (token >= tokens) return;
  sync();
  if (item == 0)
    finish_latent<T>(args, token, position, angles);
  else if (item <= args.heads)
    finish_query(args, token, item - 1, angles);
}

}  // namespace smoe::cu
