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

KvCache::KvCache(int layers, KvShape shape, int64_t capacity, Precision precision)
    : shape_(shape), capacity_(capacity), bf16_(precision == Precision::Fast), stores_(static_cast<size_t>(layers)) {}

size_t KvCache::bytes() const {
  size_t total = 0;
  for (const Store& store : stores_) total += store.k.bytes() + store.v.bytes();
  return total;
}

size_t KvCache::head_bytes(int64_t positions, int dim) const {
  return static_cast<size_t>(positions) * static_cast<size_t>(dim) * (bf16_ ? 2 : 4);
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
  const int64_t used = std::min(whole_panels(length_), store->reserved);
  // Panels and rows are both ordered by position, so a head's used part is one run of bytes.
  const auto move = [&](const Buffer& from, int dim, Buffer* to) {
    size_t row = 0, bytes = 0;
    if (!checked_product(static_cast<size_t>(reserved), static_cast<size_t>(dim) * (bf16_ ? 2 : 4), &row) ||
        !checked_product(row, static_cast<size_t>(shape_.kv_heads), &bytes)) {
      return error(Code::OutOfMemory, "a KV cache of %lld positions is too large", static_cast<long long>(reserved));
    }
    if (bytes == 0) return Status();
    SMOE_RETURN_IF_ERROR(to->allocate(bytes));
    for (int head = 0; head < shape_.kv_heads && used > 0; ++head) {
      std::memcpy(to->as<unsigned char>() + head_bytes(reserved, dim) * static_cast<size_t>(head),
                  from.as<unsigned char>() + head_bytes(store->reserved, dim) * static_cast<size_t>(head),
                  head_bytes(used, dim));
    }
    return Status();
  };
  SMOE_RETURN_IF_ERROR(move(store->k, shape_.key_dim, &grown.k));
  SMOE_RETURN_IF_ERROR(move(store->v, shape_.value_dim, &grown.v));
  *store = std::move(grown);
  return Status();
}

void KvCache::truncate(int64_t length) { length_ = std::clamp<int64_t>(length, 0, length_); }

void KvCache::put(int layer, int64_t position, const float* k, const float* v) {
  Store& store = stores_[static_cast<size_t>(layer)];
  const auto write = [&](auto* keys, auto* values, auto convert) {
    for (int head = 0; head < shape_.kv_heads; ++head, k += shape_.key_dim, v += shape_.value_dim) {
      auto* panel = keys + (head * store.reserved + position / kPanel * kPanel) * shape_.key_dim + position % kPanel;
      auto* row = values + (head * store.reserved + position) * shape_.value_dim;
      for (int d = 0; d < shape_.key_dim; ++d) panel[d * kPanel] = convert(k[d]);
      for (int d = 0; d < shape_.value_dim; ++d) row[d] = convert(v[d]);
    }
  };
  if (bf16_)
    write(store.k.as<uint16_t>(), store.v.as<uint16_t>(), f32_to_bf16);
  else
    write(store.k.as<float>(), store.v.as<float>(), [](float x) { return x; });
}

const void* KvCache::k_panels(int layer, int kv_head) const {
  const Store& store = stores_[static_cast<size_t>(layer)];
  return store.k.as<unsigned char>() + head_bytes(store.reserved, shape_.key_dim) * static_cast<size_t>(kv_head);
}

const void* KvCache::v_rows(int layer, int kv_head) const {
  const Store& store = stores_[static_cast<size_t>(layer)];
  return store.v.as<unsigned char>() + head_bytes(store.reserved, shape_.value_dim) * static_cast<size_t>(kv_head);
}

}  // namespace smoe
