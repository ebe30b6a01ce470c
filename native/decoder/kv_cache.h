// Keys and values of one sequence. K lies in 16-key panels [head_dim][16] per KV head, so that scores need no horizontal
// sums; V lies row by row. f32 in exact, bf16 in fast. Grows by doubling up to its capacity.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "layer/grouped_linear.h"

namespace smoe {

class KvCache {
 public:
  KvCache(int layers, int kv_heads, int head_dim, int64_t capacity, Precision precision);

  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  size_t bytes() const;
  // Makes room for `length` positions (not above capacity: ContextOverflow).
  Status reserve(int64_t length);
  // Drops positions from the end; a later append overwrites them.
  void truncate(int64_t length);

  bool bf16() const { return bf16_; }
  // Writes k and v [kv_heads * head_dim] of `position` in `layer`; reserve() came first.
  void put(int layer, int64_t position, const float* k, const float* v);
  const void* k_panels(int layer, int kv_head) const;
  const void* v_rows(int layer, int kv_head) const;
  void set_length(int64_t length) { length_ = length; }

 private:
  int layers_, kv_heads_, head_dim_;
  int64_t capacity_, length_ = 0, reserved_ = 0;
  bool bf16_;
  std::vector<Buffer> k_, v_;  // one per layer
};

}  // namespace smoe
