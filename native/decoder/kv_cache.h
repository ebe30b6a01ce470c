// Keys and values of one sequence, or the latent vectors that are both (multi-head latent attention). K lies in 16-key
// panels [key_dim][16] per KV head, so that scores need no horizontal sums; V lies row by row. f32 in exact, bf16 in
// fast. Grows by doubling up to its capacity, layer by layer, so that growing needs room for one layer twice and not
// for the whole cache.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "layer/grouped_linear.h"

namespace smoe {

// What one layer keeps per position: kv_heads keys of key_dim and values of value_dim; value_dim 0: the keys are all.
struct KvShape {
  int kv_heads = 0, key_dim = 0, value_dim = 0;

  bool operator==(const KvShape& other) const {
    return kv_heads == other.kv_heads && key_dim == other.key_dim && value_dim == other.value_dim;
  }
};

class KvCache {
 public:
  KvCache(int layers, KvShape shape, int64_t capacity, Precision precision);

  int layers() const { return static_cast<int>(stores_.size()); }
  const KvShape& shape() const { return shape_; }
  bool bf16() const { return bf16_; }

  int64_t length() const { return length_; }
  int64_t capacity() const { return capacity_; }
  size_t bytes() const;
  // Makes room for `length` positions (not above capacity: ContextOverflow). A failure loses nothing.
  Status reserve(int64_t length);
  // Drops positions from the end (a length that is not below the present one changes nothing); a later append
  // overwrites them.
  void truncate(int64_t length);

  // Writes k [kv_heads * key_dim] and v [kv_heads * value_dim] of `position` in `layer`; reserve() came first.
  // Different positions may be written from different threads.
  void put(int layer, int64_t position, const float* k, const float* v);
  const void* k_panels(int layer, int kv_head) const;
  const void* v_rows(int layer, int kv_head) const;
  void set_length(int64_t length) { length_ = length; }

 private:
  struct Store {
    Buffer k, v;
    int64_t reserved = 0;  // positions, a multiple of 16
  };
  Status grow(Store* store, int64_t reserved) const;
  size_t head_bytes(int64_t positions, int dim) const;  // one KV head's panels, or its V rows

  KvShape shape_;
  int64_t capacity_, length_ = 0;
  bool bf16_;
  std::vector<Store> stores_;  // one per layer
};

}  // namespace smoe
