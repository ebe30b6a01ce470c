#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>

#include "core/dtype.h"
#include "kernels/attention/reference.h"
#include "ops_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

// Keys in 16-key panels, [panel][head_dim][16]; lanes past n hold `filler`.
template <class T>
std::vector<T> panels(const std::vector<T>& rows, int64_t n, int64_t head_dim, T filler) {
  std::vector<T> out(static_cast<size_t>((n + 15) / 16 * 16 * head_dim), filler);
  for (int64_t key = 0; key < n; ++key) {
    for (int64_t d = 0; d < head_dim; ++d) out[(key / 16 * head_dim + d) * 16 + key % 16] = rows[key * head_dim + d];
  }
  return out;
}

std::vector<uint16_t> to_bf16(std::vector<float>* rows) {
  std::vector<uint16_t> out;
  for (float& value : *rows) {
    out.push_back(f32_to_bf16(value));
    value = bf16_to_f32(out.back());
  }
  return out;
}

std::vector<float> attend(const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
                          int64_t begin, int64_t end, int64_t head_dim, float scale, float filler,
                          float sink = -INFINITY) {
  const int64_t n = static_cast<int64_t>(k.size()) / head_dim;
  Guarded<float> query(q), keys(panels(k, n, head_dim, filler)), values(v), out(head_dim, filler);
  Guarded<float> scores((n + 15) / 16 * 16, filler);
  kernels()->attend_f32(query.data(), keys.data(), values.data(), begin, end, head_dim, scale, sink, scores.data(),
                        out.data());
  return out.copy();
}

std::vector<float> attend_bf16(const std::vector<float>& q, const std::vector<uint16_t>& k,
                               const std::vector<uint16_t>& v, int64_t begin, int64_t end, int64_t head_dim,
                               float scale, float sink) {
  const int64_t n = static_cast<int64_t>(k.size()) / head_dim;
  Guarded<float> query(q), out(head_dim, NAN), scores((n + 15) / 16 * 16, NAN);
  Guarded<uint16_t> keys(panels<uint16_t>(k, n, head_dim, 0x7fc0)), values(v);
  kernels()->attend_bf16(query.data(), keys.data(), values.data(), begin, end, head_dim, scale, sink, scores.data(),
                         out.data());
  return out.copy();
}

// Scores: head_dim + 2 roundings of products that sum to at most S, twice that where multiply-add is not fused.
// Their difference from the maximum, D: u*D. exp: 8u. A weight e/sum carries its own error and the sum's. The sum:
// n/16 + 8 additions. The mix: n more, in chains of multiply-adds.
void check(const std::vector<float>& out, const reference::Attention& expected, int64_t n, int64_t head_dim,
           double largest_value) {
  const double score_error = 2 * (head_dim + 2) * kU * expected.largest_score;
  const double weight = 2 * (2 * score_error + (std::fmin(expected.largest_distance, 88) + 8) * kU);
  const double relative = weight + (n / 16.0 + 2.0 * n + 12) * kU;
  CHECK(out.size() == expected.out.size());
  for (size_t d = 0; d < expected.out.size(); ++d) {
    // weights below e^-87.3 are dropped
    CHECK(std::fabs(out[d] - expected.out[d]) <= relative * expected.magnitude[d] + n * 1.3e-38 * largest_value);
  }
}

}  // namespace

TEST_CASE("attention against the reference: sizes, windows, both cache types") {
  Random random(11);
  for (int64_t head_dim : {1, 3, 8, 16, 20, 32, 48, 64, 80, 100, 128, 136, 192, 256}) {
    for (int64_t n : {1, 2, 15, 16, 17, 31, 33, 64, 65, 130}) {
      const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
      const std::vector<float> q = random.row(head_dim, 2);
      std::vector<float> k = random.row(n * head_dim), v = random.row(n * head_dim);
      const int64_t begin = random.below(3) == 0 ? random.below(static_cast<int>(n)) : 0;
      const int64_t end = begin + 1 + random.below(static_cast<int>(n - begin));
      const float sink = random.below(2) == 0 ? -INFINITY : random.row(1, 3)[0];
      const auto expected = [&] {
        return reference::attend(q.data(), k.data(), v.data(), begin, end, head_dim, head_dim, scale, sink);
      };
      check(attend(q, k, v, begin, end, head_dim, scale, NAN, sink), expected(), end - begin, head_dim, 6);

      const std::vector<uint16_t> k16 = to_bf16(&k), v16 = to_bf16(&v);
      check(attend_bf16(q, k16, v16, begin, end, head_dim, scale, sink), expected(), end - begin, head_dim, 6);
    }
  }
}

TEST_CASE("attention depends on the keys in range alone, to the bit") {
  Random random(12);
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t head_dim = 1 + random.below(70), n = 1 + random.below(90);
    const int64_t begin = random.below(static_cast<int>(n)),
                  end = begin + 1 + random.below(static_cast<int>(n - begin));
    const std::vector<float> q = random.row(head_dim);
    std::vector<float> k = random.row(n * head_dim), v = random.row(n * head_dim);
    const std::vector<float> expected = attend(q, k, v, begin, end, head_dim, 0.3f, 0.0f);
    for (int64_t key = 0; key < n; ++key) {
      if (key >= begin && key < end) continue;
      for (int64_t d = 0; d < head_dim; ++d) k[key * head_dim + d] = v[key * head_dim + d] = d % 2 ? NAN : INFINITY;
    }
    // more panels behind than before: another capacity
    k.resize(static_cast<size_t>((n + random.below(40)) * head_dim), NAN);
    v.resize(k.size(), NAN);
    CHECK(same_bits(attend(q, k, v, begin, end, head_dim, 0.3f, NAN), expected));
  }
}

TEST_CASE("attention of extreme but finite inputs is finite") {
  for (float size : {1e18f, 1e30f, FLT_MAX}) {
    const int64_t head_dim = 5, n = 20;
    std::vector<float> q(head_dim, size), k(n * head_dim, size), v(n * head_dim, 1.0f);
    for (size_t i = 0; i < k.size(); i += 3) k[i] = -size;
    for (float y : attend(q, k, v, 0, n, head_dim, 1.0f, NAN)) CHECK(y == doctest::Approx(1).epsilon(1e-5));
  }
  const std::vector<float> none = attend({1, 2}, {1, 2}, {1, 2}, 1, 1, 2, 1.0f, NAN);
  for (float y : none) CHECK(y == 0);
}

namespace {

// Latents are keys of key_dim whose first value_dim elements are the values; only the panels exist.
template <class T>
std::vector<float> attend_latent(const std::vector<float>& q, const std::vector<T>& latents, int64_t begin, int64_t end,
                                 int64_t key_dim, int64_t value_dim, float scale, T filler) {
  const int64_t n = static_cast<int64_t>(latents.size()) / key_dim;
  Guarded<float> query(q), out(value_dim, NAN), scores((n + 15) / 16 * 16, NAN);
  Guarded<T> keys(panels(latents, n, key_dim, filler));
  if constexpr (sizeof(T) == 4) {
    kernels()->attend_latent_f32(query.data(), keys.data(), begin, end, key_dim, value_dim, scale, scores.data(),
                                 out.data());
  } else {
    kernels()->attend_latent_bf16(query.data(), keys.data(), begin, end, key_dim, value_dim, scale, scores.data(),
                                  out.data());
  }
  return out.copy();
}

}  // namespace

TEST_CASE("latent attention against the reference: sizes, ranges, both cache types") {
  Random random(13);
  for (int64_t value_dim : {1, 3, 4, 15, 16, 17, 32, 40, 64}) {
    for (int64_t n : {1, 2, 15, 16, 17, 33, 64, 65, 130}) {
      const int64_t key_dim = value_dim + random.below(20);
      const float scale = 1 / std::sqrt(static_cast<float>(key_dim));
      const std::vector<float> q = random.row(key_dim, 2);
      std::vector<float> latents = random.row(n * key_dim);
      const int64_t begin = random.below(3) == 0 ? random.below(static_cast<int>(n)) : 0;
      const int64_t end = begin + 1 + random.below(static_cast<int>(n - begin));
      const auto expected = [&] {
        std::vector<float> v;
        for (int64_t key = 0; key < n; ++key)
          v.insert(v.end(), &latents[key * key_dim], &latents[key * key_dim] + value_dim);
        return reference::attend(q.data(), latents.data(), v.data(), begin, end, key_dim, value_dim, scale, -INFINITY);
      };
      const auto run = [&](auto rows, auto filler) {
        return attend_latent(q, rows, begin, end, key_dim, value_dim, scale, filler);
      };
      check(run(latents, NAN), expected(), end - begin, key_dim, 6);
      const std::vector<uint16_t> narrow = to_bf16(&latents);
      check(run(narrow, uint16_t{0x7fc0}), expected(), end - begin, key_dim, 6);
    }
  }
  CHECK(attend_latent<float>({1, 2}, {1, 2}, 1, 1, 2, 1, 1.0f, NAN) == std::vector<float>{0});
}

TEST_CASE("latent attention depends on the keys in range alone, to the bit") {
  Random random(14);
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t value_dim = 1 + random.below(40), key_dim = value_dim + random.below(9), n = 1 + random.below(90);
    const int64_t begin = random.below(static_cast<int>(n)),
                  end = begin + 1 + random.below(static_cast<int>(n - begin));
    const std::vector<float> q = random.row(key_dim);
    std::vector<float> latents = random.row(n * key_dim);
    const auto run = [&] { return attend_latent(q, latents, begin, end, key_dim, value_dim, 0.3f, NAN); };
    const std::vector<float> expected = run();
    for (int64_t key = 0; key < n; ++key) {
      if (key >= begin && key < end) continue;
      for (int64_t d = 0; d < key_dim; ++d) latents[key * key_dim + d] = d % 2 ? NAN : INFINITY;
    }
    latents.resize(static_cast<size_t>((n + random.below(40)) * key_dim), NAN);
    CHECK(same_bits(run(), expected));
  }
}

TEST_CASE("a sink takes its share: none at -infinity, everything when it is far above") {
  const std::vector<float> q = {1, 2}, k = {1, 0, 0, 1}, v = {3, 4, 5, 6};
  CHECK(same_bits(attend(q, k, v, 0, 2, 2, 1, NAN), attend(q, k, v, 0, 2, 2, 1, NAN, -1e30f)));
  for (float y : attend(q, k, v, 0, 2, 2, 1, NAN, 1e30f)) CHECK(y == 0);
  const std::vector<float> half = attend({0, 0}, {1, 0}, {3, 4}, 0, 1, 2, 1, NAN, 0.0f);
  CHECK(half[0] == doctest::Approx(1.5));
  CHECK(half[1] == doctest::Approx(2));
}
