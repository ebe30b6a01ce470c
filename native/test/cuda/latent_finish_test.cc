// latent_finish against double: the latent's norm, rotations of both kinds, places of everything.
#include "kv_cache.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Case {
  int64_t tokens, max_tokens, position;
  int heads, kv_rank, nope, rope;
  bool interleaved = true, f32 = true;
  int parts = 3;
  float scale = 1;  // of the input
};

struct Inputs {
  explicit Inputs(const Case& c)
      : q(random_floats(static_cast<size_t>(c.max_tokens * c.heads * (c.nope + c.rope)), 1, c.scale)),
        kv(random_floats(static_cast<size_t>(c.max_tokens * (c.kv_rank + c.rope)), 2, c.scale)),
        kv_norm(random_floats(static_cast<size_t>(c.kv_rank), 3)) {
    for (int i = 0; i < c.rope / 2; ++i)
      inv_freq.push_back(std::pow(10000.0f, -2 * static_cast<float>(i) / static_cast<float>(c.rope)));
  }
  std::vector<float> q, kv, kv_norm, inv_freq;
};

constexpr float kRopeScale = 1.25f, kEps = 1e-6f;

// Element i of a rotated part as the cache and q_latent hold it, and the sum of magnitudes it is made of.
double rotated(const Case& c, const Inputs& in, int64_t position, const float* part, int i, double* magnitude) {
  const int half = c.rope / 2, pair = i % half;
  const double a = part[c.interleaved ? 2 * pair : pair], b = part[c.interleaved ? 2 * pair + 1 : half + pair];
  const float angle = static_cast<float>(position) * in.inv_freq[static_cast<size_t>(pair)];
  const double cosine = kRopeScale * std::cos(static_cast<double>(angle)),
               sine = kRopeScale * std::sin(static_cast<double>(angle));
  *magnitude = kRopeScale * (std::fabs(a) + std::fabs(b));
  return i < half ? a * cosine - b * sine : b * cosine + a * sine;
}

struct Result {
  std::vector<std::vector<unsigned char>> pages;
  std::vector<bf16> nope;
  std::vector<float> latent;
};
void compare(const Case& c, const Inputs& in, KvCache& cache, const Result& result) {
  // Roundings: three of the angle's cosine, its scale and the products; then the sum and its terms.
  const double turn = 6 * std::ldexp(1.0, -24);
  const size_t plane = static_cast<size_t>(c.max_tokens * c.heads * c.nope);
  for (int64_t token = 0; token < c.tokens; ++token) {
    const float* const kv = in.kv.data() + token * (c.kv_rank + c.rope);
    double squares = 0, magnitude = 0;
    for (int i = 0; i < c.kv_rank; ++i) squares += static_cast<double>(kv[i]) * static_cast<double>(kv[i]);
    const double factor = 1 / std::sqrt(squares / c.kv_rank + static_cast<double>(kEps));
    const auto close_in_cache = [&](int i, double expected, double tolerance) {
      if (!c.f32) tolerance += std::ldexp(std::fabs(expected), -8);
      REQUIRE(close(static_cast<double>(cache.get(c.position + token, 0, false, i)), expected, tolerance));
    };
    for (int i = 0; i < c.kv_rank; ++i) {
      const double expected = kv[i] * factor * static_cast<double>(in.kv_norm[static_cast<size_t>(i)]);
      // A lane adds kv_rank / 32 squares, the lanes 5 more; half of that error enters the root.
      close_in_cache(i, expected, ((c.kv_rank / 32 + 8) / 2 + 8) * std::ldexp(std::fabs(expected), -24));
    }
    for (int i = 0; i < c.rope; ++i) {
      const double expected = rotated(c, in, c.position + token, kv + c.kv_rank, i, &magnitude);
      close_in_cache(c.kv_rank + i, expected, turn * magnitude);
    }
    for (int head = 0; head < c.heads; ++head) {
      const int64_t row = token * c.heads + head;
      const float* const q = in.q.data() + row * (c.nope + c.rope);
      const float* const latent = result.latent.data() + row * (c.kv_rank + c.rope) + c.kv_rank;
      for (int i = 0; i < c.rope; ++i) {
        const double expected = rotated(c, in, c.position + token, q + c.nope, i, &magnitude);
        REQUIRE(close(static_cast<double>(latent[i]), expected, turn * magnitude));
      }
      for (int i = 0; i < c.nope; ++i) {
        const size_t at = static_cast<size_t>(row * c.nope + i);
        float sum = 0;
        for (int part = 0; part < c.parts; ++part) sum += to_float(result.nope[at + static_cast<size_t>(part) * plane]);
        REQUIRE(sum == (c.parts == 3 ? q[i] : to_float(to_bf16(q[i]))));
      }
    }
  }
}

void check(const Case& c) {
  CAPTURE(c.tokens);
  CAPTURE(c.heads);
  CAPTURE(c.kv_rank);
  CAPTURE(c.interleaved);
  const Inputs in(c);
  Result first;
  for (const Run& run : all_runs()) {
    Gpu gpu(run);
    auto q = gpu.array(in.q, "q"), kv = gpu.array(in.kv, "kv");
    auto kv_norm = gpu.constant(in.kv_norm, "kv_norm"), inv_freq = gpu.constant(in.inv_freq, "inv_freq");
    auto step = step_input(gpu, c.tokens, c.position);
    const size_t rows = static_cast<size_t>(c.max_tokens * c.heads), plane = rows * static_cast<size_t>(c.nope);
    auto nope = gpu.array<bf16>(plane * static_cast<size_t>(c.parts), "q_nope");
    auto latent = gpu.array<float>(rows * static_cast<size_t>(c.kv_rank + c.rope), "q_latent");
    KvCache cache(gpu, c.position + c.max_tokens, 1, c.kv_rank + c.rope, 0, c.f32);
    LatentFinishArgs args;
    args.q = q.data();
    args.kv = kv.data();
    args.kv_norm = kv_norm.data();
    args.norm_eps = kEps;
    args.heads = c.heads;
    args.kv_rank = c.kv_rank;
    args.nope_dim = c.nope;
    args.rope_dim = c.rope;
    args.rope = {inv_freq.data(), c.rope / 2, kRopeScale, c.interleaved};
    args.step = step.data();
    args.max_tokens = c.max_tokens;
    args.cache = cache.pages();
    args.q_nope = {nope.data(), static_cast<int64_t>(plane), c.parts};
    args.q_latent = latent.data();
    REQUIRE(launch_latent_finish(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    const size_t skipped = static_cast<size_t>((c.max_tokens - c.tokens) * c.heads), written = rows - skipped;
    REQUIRE(nope.unwritten_bytes() == skipped * static_cast<size_t>(c.nope * c.parts) * 2);
    REQUIRE(latent.unwritten_bytes() == latent.size() * 4 - written * static_cast<size_t>(c.rope) * 4);
    REQUIRE(cache.unwritten_bytes() == cache.total_bytes() - static_cast<size_t>(c.tokens) * cache.row_bytes());
    cache.download();
    const Result result{cache.bytes(), nope.download(), latent.download()};
    if (first.latent.empty()) {
      first = result;
      compare(c, in, cache, result);
    }
    REQUIRE(result.pages == first.pages);
    REQUIRE(same_bits(result.nope, first.nope));
    REQUIRE(same_bits(result.latent, first.latent));
  }
}

}  // namespace

TEST_CASE("latent_finish: tokens, heads, kinds of rotation and cache") {
  for (const bool f32 : {true, false}) {
    const int parts = f32 ? 3 : 1;
    check({0, 2, 0, 3, 32, 16, 8, true, f32, parts});
    check({1, 1, 0, 16, 512, 128, 64, true, f32, parts});
    check({3, 4, 62, 7, 48, 24, 12, false, f32, parts});
    check({2, 2, 130, 8, 40, 17, 10, true, f32, parts});  // nothing is a whole number of pairs
    check({2, 2, 63, 1, 33, 20, 0, true, f32, parts});    // no rotated part
  }
  check({65, 65, 60, 2, 32, 16, 8});
}

TEST_CASE("latent_finish: far positions, and latents whose squares overflow") {
  check({1, 1, 200000, 2, 64, 32, 64});
  check({2, 2, 5, 2, 64, 32, 16, true, true, 3, 1e25f});
}

TEST_CASE("latent_finish: a rotation wider than its part is refused") {
  Gpu gpu;
  LatentFinishArgs args;
  args.heads = 1;
  args.max_tokens = 1;
  args.rope_dim = 6;
  args.rope.half = 4;
  CHECK(launch_latent_finish(gpu.stream(), args) != 0);
}
