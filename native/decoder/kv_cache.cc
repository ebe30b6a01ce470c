#include "decoder/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "core/dtype.h"

namespace smoe {
namespace {

constexpr int64_t kPanel = 16;  // keys per panel: the lanes of the attention kernels
// Positions of a fresh cache: a short chat fits, and the first doublings, which copy little but often, are skipped.
constexpr int64_t kFirstReserve = 256;

int64_t whole_panels(int64_t positions) { return (positions + kPanel - 1) / kPanel * kPanel; }

}  // namespace

KvCache::KvCache(int layers, int kv_heads, int head_dim, int64_t capacity, Precision precision)
    : kv_heads_(kv_heads),
      head_dim_(head_dim),
      capacity_(capacity),
      bf16_(precision == Precision::Fast),
      stores_(static_cast<size_t>(layers)) {}

size_t KvCache::bytes() const {
  size_t total = 0;
  for (const Store& store : stores_) total += store.k.bytes() + store.v.bytes();
  return total;
}

size_t KvCache::head_bytes(const Store& store) const {
  return static_cast<size_t>(store.reserved) * static_cast<size_t>(head_dim_) * (bf16_ ? 2 : 4);
}

Status KvCache::reserve(int64_t length) {
  if (length > capacity_) {
    return error(Code::ContextOverflow, "%lld positions do not fit a context of %lld", static_cast<long long>(length),
                 static_cast<long long>(capacity_));
  }
  for (Store& store : stores_) {
    if (length <= store.reserved) continue;
    const int64_t wanted = std::max({length, 2 * store.reserved, kFirstReserve});
    SMOE_RETURN_IF_ERROR(grow(&store, whole_panels(std::min(wanted, capacity_))));
  }
  return Status();
}

Status KvCache::grow(Store* store, int64_t reserved) const {
  Store grown;
  grown.reserved = reserved;
  size_t row = 0, bytes = 0;
  if (!checked_product(static_cast<size_t>(reserved), static_cast<size_t>(head_dim_) * (bf16_ ? 2 : 4), &row) ||
      !checked_product(row, static_cast<size_t>(kv_heads_), &bytes)) {
    return error(Code::OutOfMemory, "a KV cache of %lld positions is too large", static_cast<long long>(reserved));
  }
  SMOE_RETURN_IF_ERROR(grown.k.allocate(bytes));
  SMOE_RETURN_IF_ERROR(grown.v.allocate(bytes));
  // Panels and rows are both ordered by position, so a head's used part is one run of bytes.
  const size_t used =
      static_cast<size_t>(std::min(whole_panels(length_), store->reserved)) * (head_bytes(grown) / grown.reserved);
  for (int head = 0; head < kv_heads_ && used > 0; ++head) {
    const size_t to = head_bytes(grown) * head, from = head_bytes(*store) * head;
    std::memcpy(grown.k.as<unsigned char>() + to, store->k.as<unsigned char>() + from, used);
    std::memcpy(grown.v.as<unsigned char>() + to, store->v.as<unsigned char>() + from, used);
  }
  *store = std::move(grown);
  return Status();
}

void KvCache::truncate(int64_t length) { length_ = std::clamp<int64_t>(length, 0, length_); }

void KvCache::put(int layer, int64_t position, const float* k, const float* v) {
  Store& store = stores_[static_cast<size_t>(layer)];
  const auto write = [&](auto* keys, auto* values, auto convert) {
    for (int head = 0; head < kv_heads_; ++head, k += head_dim_, v += head_dim_) {
      const int64_t base = head * store.reserved * head_dim_;
      auto* panel = keys + base + position / kPanel * kPanel * head_dim_ + position % kPanel;
      auto* row = values + base + position * head_dim_;
      for (int d = 0; d < head_dim_; ++d) {
        panel[d * kPanel] = convert(k[d]);
        row[d] = convert(v[d]);
      }
    }
  };
  if (bf16_)
    write(store.k.as<uint16_t>(), store.v.as<uint16_t>(), f32_to_bf16);
  else
    write(store.k.as<float>(), store.v.as<float>(), [](float x) { return x; });
}

const void* KvCache::k_panels(int layer, int kv_head) const {
  const Store& store = stores_[static_cast<size_t>(layer)];
  return store.k.as<unsigned char>() + head_bytes(store) * static_cast<size_t>(kv_head);
}

const void* KvCache::v_rows(int layer, int kv_head) const {
  const Store& store = stores_[static_cast<size_t>(layer)];
  return store.v.as<unsigned char>() + head_bytes(store) * static_cast<size_t>(kv_head);
}

}  // namespace smoe
