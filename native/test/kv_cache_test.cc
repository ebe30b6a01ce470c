#include "decoder/kv_cache.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/dtype.h"

using namespace smoe;

namespace {

constexpr int kLayers = 2, kHeads = 3, kDim = 5;

// Any distinct number, exact in bf16: below 256 and integral.
float value(int layer, int64_t position, int head, int d) {
  return static_cast<float>((position * 31 + layer * 97 + head * 11 + d) % 251);
}

void put(KvCache& cache, int layer, int64_t position) {
  float k[kHeads * kDim], v[kHeads * kDim];
  for (int head = 0; head < kHeads; ++head) {
    for (int d = 0; d < kDim; ++d) {
      k[head * kDim + d] = value(layer, position, head, d);
      v[head * kDim + d] = -value(layer, position, head, d);
    }
  }
  cache.put(layer, position, k, v);
}

float at(const KvCache& cache, const void* base, int64_t index) {
  return cache.bf16() ? bf16_to_f32(static_cast<const uint16_t*>(base)[index]) : static_cast<const float*>(base)[index];
}

void check(const KvCache& cache, int64_t length) {
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int64_t position = 0; position < length; ++position) {
      for (int head = 0; head < kHeads; ++head) {
        for (int d = 0; d < kDim; ++d) {
          const int64_t key = (position / 16 * kDim + d) * 16 + position % 16;
          REQUIRE(at(cache, cache.k_panels(layer, head), key) == value(layer, position, head, d));
          REQUIRE(at(cache, cache.v_rows(layer, head), position * kDim + d) == -value(layer, position, head, d));
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("keys lie in panels and survive growth") {
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    KvCache cache(kLayers, {kHeads, kDim, kDim}, 1001, precision);
    CHECK(cache.bytes() == 0);
    CHECK(cache.bf16() == (precision == Precision::Fast));
    for (int64_t position = 0; position < 1001; ++position) {
      REQUIRE(cache.reserve(position + 1).ok());
      for (int layer = 0; layer < kLayers; ++layer) put(cache, layer, position);
      cache.set_length(position + 1);
    }
    check(cache, 1001);
    // 1008 positions: the capacity in whole panels, not the next power of two.
    CHECK(cache.bytes() == size_t{2} * kLayers * kHeads * kDim * 1008 * (cache.bf16() ? 2 : 4));
  }
}

TEST_CASE("keys and values of different sizes, and keys alone") {
  for (const int value_dim : {kDim - 2, 0}) {
    KvCache cache(1, {kHeads, kDim, value_dim}, 700, Precision::Exact);
    for (int64_t position = 0; position < 700; ++position) {
      REQUIRE(cache.reserve(position + 1).ok());
      float k[kHeads * kDim], v[kHeads * kDim];
      for (int i = 0; i < kHeads * kDim; ++i) k[i] = static_cast<float>(position * 100 + i), v[i] = -k[i];
      cache.put(0, position, k, value_dim > 0 ? v : nullptr);
      cache.set_length(position + 1);
    }
    for (int64_t position = 0; position < 700; ++position) {
      for (int head = 0; head < kHeads; ++head) {
        const auto* keys = static_cast<const float*>(cache.k_panels(0, head));
        for (int d = 0; d < kDim; ++d)
          REQUIRE(keys[(position / 16 * kDim + d) * 16 + position % 16] == position * 100 + head * kDim + d);
        const auto* values = static_cast<const float*>(cache.v_rows(0, head));
        for (int d = 0; d < value_dim; ++d)
          REQUIRE(values[position * value_dim + d] == -static_cast<float>(position * 100 + head * value_dim + d));
      }
    }
    CHECK(cache.bytes() == sizeof(float) * kHeads * (kDim + value_dim) * 704);
  }
}

TEST_CASE("capacity is kept and truncation only shortens") {
  KvCache cache(kLayers, {kHeads, kDim, kDim}, 20, Precision::Exact);
  CHECK(cache.reserve(21).code() == Code::ContextOverflow);
  REQUIRE(cache.reserve(20).ok());
  for (int64_t position = 0; position < 20; ++position)
    for (int layer = 0; layer < kLayers; ++layer) put(cache, layer, position);
  cache.set_length(20);
  cache.truncate(25);
  CHECK(cache.length() == 20);
  cache.truncate(7);
  CHECK(cache.length() == 7);
  cache.truncate(-1);
  CHECK(cache.length() == 0);
  check(cache, 20);
}

TEST_CASE("a cache that cannot be allocated keeps what it has") {
  KvCache cache(kLayers, {kHeads, kDim, kDim}, int64_t{1} << 46, Precision::Exact);
  REQUIRE(cache.reserve(3).ok());
  for (int layer = 0; layer < kLayers; ++layer)
    for (int64_t position = 0; position < 3; ++position) put(cache, layer, position);
  cache.set_length(3);
  CHECK(cache.reserve(int64_t{1} << 42).code() == Code::OutOfMemory);
  CHECK(cache.reserve(int64_t{1} << 46).code() == Code::OutOfMemory);
  CHECK(cache.length() == 3);
  check(cache, 3);
}
