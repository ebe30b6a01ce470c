// Addresses and accesses of the paged KV cache (KvPages).
#pragma once

#include "cuda/cu.h"
#include "cuda/operands.h"

namespace smoe::cu {

// This layer's part of page `page`. T: bf16 or float, as KvPages::f32 says.
template <class T>
SMOE_DEVICE T* kv_part(const KvPages& cache, int64_t page) {
  return reinterpret_cast<T*>(static_cast<char*>(ldg(cache.pages + page)) + cache.layer_offset);
}
// The key and the value of one slot (position % kPageTokens) of one head.
template <class T>
SMOE_DEVICE T* key_row(const KvPages& cache, T* part, int kv_head, int slot) {
  return part + off(kv_head * kPageTokens + slot, cache.key_dim);
}
template <class T>
SMOE_DEVICE T* value_row(const KvPages& cache, T* part, int kv_head, int slot) {
  if (cache.value_dim == 0) return key_row(cache, part, kv_head, slot);
  return part + off(cache.kv_heads * kPageTokens, cache.key_dim) + off(kv_head * kPageTokens + slot, cache.value_dim);
}

SMOE_DEVICE void put_element(float* to, float value) { stg(to, value); }
SMOE_DEVICE void put_element(bf16* to, float value) { stg(to, to_bf16(value)); }
SMOE_DEVICE float get_element(const float* from) { return ldg(from); }
SMOE_DEVICE float get_element(const bf16* from) { return to_float(ldg(from)); }

struct Four {
  float x[4];
};

// Elements at..at+3 of a row of `dim`, zero past its end. whole: dim is a multiple of four, so that one load does.
template <class T>
SMOE_DEVICE Four get_tail(const T* row, int at, int dim) {
  Four four = {};
  SMOE_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (at + i < dim) four.x[i] = get_element(row + at + i);
  }
  return four;
}
SMOE_DEVICE Four get_four(const float* row, int at, int dim, bool whole) {
  if (!whole) return get_tail(row, at, dim);
  return bit_cast<Four>(ldg(reinterpret_cast<const U32x4*>(row + at)));
}
SMOE_DEVICE Four get_four(const bf16* row, int at, int dim, bool whole) {
  if (!whole) return get_tail(row, at, dim);
  const U32x2 v = ldg(reinterpret_cast<const U32x2*>(row + at));
  return {{to_float(half_of(v.x[0], 0)), to_float(half_of(v.x[0], 1)), to_float(half_of(v.x[1], 0)),
           to_float(half_of(v.x[1], 1))}};
}

}  // namespace smoe::cu
