// qkv_finish against double: norms, clip, rotation, places in the cache.
#include "kv_cache.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int64_t tokens, max_tokens, position;
  int heads, kv_heads, dim, half;
  HeadNorm norm;
  float clip = 0;
  bool f32 = true;
  float scale = 1;  // of the input
};

struct Result {
  std::vector<float> qkv;
  std::vector<std::vector<unsigned char>> pages;
  bool operator==(const Result& other) const {
    return pages == other.pages && qkv.size() == other.qkv.size() &&
           (qkv.empty() || std::memcmp(qkv.data(), other.qkv.data(), qkv.size() * sizeof(float)) == 0);
  }
};

struct Inputs {
  explicit Inputs(const Case& c)
      : all(c.heads + 2 * c.kv_heads),
        qkv(random_floats(static_cast<size_t>(c.max_tokens * all * c.dim), 1, c.scale)),
        q_norm(random_floats(static_cast<size_t>(c.heads * c.dim), 2)),
        k_norm(random_floats(static_cast<size_t>(c.kv_heads * c.dim), 3)) {
    for (int i = 0; i < c.half; ++i) inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(i) / c.half));
  }
  int all;
  std::vector<float> qkv, q_norm, k_norm, inv_freq;
};

// Head `head` of a token in double, and its sum of magnitudes before the rotation's sums.
void expected_head(const Case& c, const Inputs& in, int64_t token, int head, std::vector<double>* out,
                   std::vector<double>* magnitude) {
  const float* row = in.qkv.data() + token * in.all * c.dim;
  const bool is_q = head < c.heads, is_v = head >= c.heads + c.kv_heads, full = c.norm == HeadNorm::Full;
  const int first = is_q ? 0 : c.heads, count = is_q ? c.heads : c.kv_heads;
  double factor = 1;
  if (!is_v && c.norm != HeadNorm::None) {
    const int from = full ? first : head, width = (full ? count : 1) * c.dim;
    double squares = 0;
    for (int i = 0; i < width; ++i) squares += std::pow(static_cast<double>(row[from * c.dim + i]), 2);
    factor = 1 / std::sqrt(squares / width + 1e-6);
  }
  std::vector<double> x;
  for (int i = 0; i < c.dim; ++i) {
    double value = row[head * c.dim + i];
    if (!is_v && c.norm != HeadNorm::None) {
      const int at = full ? (head - first) * c.dim + i : i;
      value *= factor * static_cast<double>((is_q ? in.q_norm : in.k_norm)[static_cast<size_t>(at)]);
    }
    if (c.clip > 0) value = std::min(std::max(value, -static_cast<double>(c.clip)), static_cast<double>(c.clip));
    x.push_back(value);
  }
  *out = x;
  magnitude->clear();
  for (const double value : x) magnitude->push_back(std::fabs(value));
  if (is_v) return;
  for (int i = 0; i < c.half; ++i) {
    const size_t a = static_cast<size_t>(i), b = static_cast<size_t>(i + c.half);
    const float angle = static_cast<float>(c.position + token) * in.inv_freq[a];
    const double cosine = std::cos(static_cast<double>(angle)), sine = std::sin(static_cast<double>(angle));
    (*out)[a] = 1.25 * (x[a] * cosine - x[b] * sine);
    (*out)[b] = 1.25 * (x[b] * cosine + x[a] * sine);
    (*magnitude)[a] = (*magnitude)[b] = 1.25 * (std::fabs(x[a]) + std::fabs(x[b]));
  }
}

void check(const Case& c) {
  CAPTURE(c.tokens);
  CAPTURE(c.heads);
  CAPTURE(c.dim);
  CAPTURE(static_cast<int>(c.norm));
  const Inputs in(c);
  Result first;
  bool have = false;
  for (const Run& run : all_runs()) {
    Gpu gpu(run);
    auto qkv = gpu.array(in.qkv, "qkv");
    auto q_norm = gpu.constant(in.q_norm, "q_norm"), k_norm = gpu.constant(in.k_norm, "k_norm"),
         inv_freq = gpu.constant(in.inv_freq, "inv_freq");
    auto step = step_input(gpu, c.tokens, c.position);
    KvCache cache(gpu, c.position + c.max_tokens, c.kv_heads, c.dim, c.dim, c.f32);
    QkvFinishArgs args;
    args.qkv = qkv.data();
    args.heads = c.heads;
    args.kv_heads = c.kv_heads;
    args.head_dim = c.dim;
    args.norm = c.norm;
    args.norm_eps = 1e-6f;
    args.q_norm = q_norm.data();
    args.k_norm = k_norm.data();
    args.clip = c.clip;
    args.rope = {inv_freq.data(), c.half, 1.25f, false};
    args.step = step.data();
    args.max_tokens = c.max_tokens;
    args.cache = cache.pages();
    REQUIRE(launch_qkv_finish(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    // Keys and values of the call's tokens, and nothing else.
    REQUIRE(cache.unwritten_bytes() == cache.total_bytes() - static_cast<size_t>(c.tokens) * cache.row_bytes());
    cache.download();
    const Result result{qkv.download(), cache.bytes()};
    if (have) {
      REQUIRE(result == first);
      continue;
    }
    have = true;
    first = result;
    std::vector<double> expected, magnitude;
    for (int64_t token = 0; token < c.max_tokens; ++token) {
      for (int head = 0; head < in.all; ++head) {
        const size_t at = static_cast<size_t>((token * in.all + head) * c.dim);
        const bool is_q = head < c.heads, is_v = head >= c.heads + c.kv_heads;
        expected_head(c, in, token, head, &expected, &magnitude);
        for (int i = 0; i < c.dim; ++i) {
          const size_t e = static_cast<size_t>(i);
          const float there = result.qkv[at + e];
          if (token >= c.tokens || !is_q) REQUIRE(there == in.qkv[at + e]);
          if (token >= c.tokens) continue;
          const int kv_head = is_v ? head - c.heads - c.kv_heads : head - c.heads;
          const float value = is_q ? there : cache.get(c.position + token, kv_head, is_v, i);
          // The sum of squares of w elements in lanes, w/64 + 5 additions for a head, 8 warps more for all heads; half
          // its error enters the root. Then some eight roundings, of the factor, products, cosine and sum.
          const double squares = ((c.norm == HeadNorm::Full ? c.heads : 1) * c.dim / 64 + 16) / 2;
          double tolerance = (squares + 8) * std::ldexp(magnitude[e], -24);
          if (!is_q && !c.f32) tolerance += std::ldexp(std::fabs(expected[e]), -8);
          REQUIRE(close(static_cast<double>(value), expected[e], tolerance));
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("qkv_finish: norms, clip, rotation, cache") {
  for (const bool f32 : {true, false}) {
    check({0, 2, 0, 2, 1, 16, 8, HeadNorm::None, 0, f32});
    check({1, 1, 0, 4, 1, 16, 8, HeadNorm::None, 0, f32});
    check({3, 4, 62, 8, 2, 80, 40, HeadNorm::PerHead, 0, f32});
    check({2, 2, 130, 5, 5, 40, 10, HeadNorm::Full, 0, f32});
    check({2, 3, 63, 12, 3, 24, 8, HeadNorm::Full, 0.5f, f32});
    check({9, 9, 60, 4, 2, 64, 0, HeadNorm::None, 0.75f, f32});
  }
  check({65, 65, 64, 2, 1, 32, 16, HeadNorm::PerHead});
}

TEST_CASE("qkv_finish: far positions, and norms whose squares overflow") {
  check({2, 2, 200000, 2, 1, 128, 64, HeadNorm::None});
  check({2, 2, 5, 2, 1, 32, 16, HeadNorm::PerHead, 0, true, 1e25f});
  check({2, 2, 5, 2, 1, 32, 16, HeadNorm::Full, 0, true, 1e25f});
}

TEST_CASE("qkv_finish: rotations that it does not do are refused") {
  Gpu gpu;
  QkvFinishArgs args;
  args.heads = args.kv_heads = 1;
  args.max_tokens = 1;
  args.head_dim = 8;
  args.rope.half = 5;
  CHECK(launch_qkv_finish(gpu.stream(), args) != 0);
  args.rope.half = 4;
  args.rope.interleaved = true;
  CHECK(launch_qkv_finish(gpu.stream(), args) != 0);
}
