// Inputs, runs and the double reference of the tests of attention over a paged cache.
#pragma once

#include "kernels/attention/reference.h"
#include "kv_cache.h"

namespace smoe::cu::test {

struct AttendCase {
  int64_t tokens, max_tokens, position;
  int heads, kv_heads, key_dim;
  int value_dim = 0;    // of the result
  bool latent = false;  // the cache holds keys alone
  bool f32 = true;
  int parts = 3;
  int splits = 1;
  int64_t window = 0;
  bool sinks = false;
  bool direct = false;  // without partial sums
  unsigned seed = 1;
  bool bf16_q = false;  // queries that bf16 holds exactly
};

struct AttendInputs {
  explicit AttendInputs(const AttendCase& c)
      : q(random_floats(static_cast<size_t>(c.max_tokens * stride(c)), c.seed)),
        sinks(random_floats(static_cast<size_t>(c.heads), c.seed + 1)),
        end(c.position + c.tokens) {
    const auto count = [&](int dim) { return static_cast<size_t>(end * c.kv_heads * dim); };
    keys = random_floats(count(c.key_dim), c.seed + 2);
    values = random_floats(c.latent ? 0 : count(c.value_dim), c.seed + 3);
    if (c.bf16_q)
      for (float& x : q) x = to_float(to_bf16(x));
    if (c.f32) return;
    for (auto* side : {&keys, &values})
      for (float& x : *side) x = to_float(to_bf16(x));
  }
  // Not the sum of the heads: rows lie in a wider matrix.
  static int64_t stride(const AttendCase& c) { return int64_t{c.heads} * c.key_dim + 4; }
  static float scale(const AttendCase& c) { return 1 / std::sqrt(static_cast<float>(c.key_dim)); }
  std::vector<float> q, sinks;
  std::vector<float> keys, values;  // [kv_heads][end][dim]
  int64_t end;
};

using AttendLaunch = int (*)(Stream, const AttendArgs&);

// The parts that one run gives, after a check that rows of real tokens and no others were written. Without a launch:
// attend_split and attend_merge.
inline std::vector<bf16> run_attend(const AttendCase& c, const AttendInputs& in, const Run& run,
                                    AttendLaunch whole = nullptr, emu::Traffic* traffic = nullptr) {
  Gpu gpu(run);
  gpu.count_traffic(traffic != nullptr);
  KvCache cache(gpu, std::max<int64_t>(in.end, 1), c.kv_heads, c.key_dim, c.latent ? 0 : c.value_dim, c.f32);
  cache.fill(in.end, [&](int64_t position, int head, bool value, int i) {
    return value ? in.values[static_cast<size_t>((head * in.end + position) * c.value_dim + i)]
                 : in.keys[static_cast<size_t>((head * in.end + position) * c.key_dim + i)];
  });
  auto q = gpu.array(in.q, "q");
  auto sinks = gpu.constant(in.sinks, "sinks");
  auto step = step_input(gpu, c.tokens, c.position);
  const size_t results = static_cast<size_t>(c.max_tokens * c.heads * c.value_dim);
  auto out = gpu.array<bf16>(results * static_cast<size_t>(c.parts), "out");
  auto partial =
      gpu.array<float>(static_cast<size_t>(c.max_tokens * c.heads * c.splits * (c.value_dim + 2)), "partial");
  AttendArgs args;
  args.q = q.data();
  args.q_stride = AttendInputs::stride(c);
  args.heads = c.heads;
  args.value_dim = c.value_dim;
  args.cache = cache.pages();
  args.scale = AttendInputs::scale(c);
  args.window = c.window;
  args.sinks = c.sinks ? sinks.data() : nullptr;
  args.step = step.data();
  args.max_tokens = c.max_tokens;
  args.splits = c.splits;
  args.partial = c.direct ? nullptr : partial.data();
  args.out = {out.data(), static_cast<int64_t>(results), c.parts};
  if (whole != nullptr) {
    REQUIRE(whole(gpu.stream(), args) == 0);
  } else {
    REQUIRE(launch_attend_split(gpu.stream(), args) == 0);
    if (!c.direct) REQUIRE(launch_attend_merge(gpu.stream(), args) == 0);
  }
  REQUIRE(gpu.fault() == "");
  REQUIRE(out.unwritten_bytes() ==
          static_cast<size_t>((c.max_tokens - c.tokens) * c.heads * c.value_dim * c.parts) * 2);
  if (traffic != nullptr) gpu.read_traffic(traffic);
  return out.download();
}

// All runs agree to the bit, and with double within `tolerance(reference)` times the sum of |weight * value|, and the
// roundings of the parts.
template <class Tolerance>
std::vector<bf16> check_attend(const AttendCase& c, AttendLaunch whole, Tolerance tolerance) {
  CAPTURE(c.tokens);
  CAPTURE(c.position);
  CAPTURE(c.heads);
  CAPTURE(c.key_dim);
  CAPTURE(c.window);
  CAPTURE(c.splits);
  CAPTURE(c.f32);
  const AttendInputs in(c);
  std::vector<bf16> first;
  for (const Run& run : all_runs()) {
    const auto out = run_attend(c, in, run, whole);
    if (first.empty()) first = out;
    REQUIRE(same_bits(out, first));
  }
  const size_t results = static_cast<size_t>(c.max_tokens * c.heads * c.value_dim);
  for (int64_t token = 0; token < c.tokens; ++token) {
    const int64_t end = c.position + token + 1, begin = c.window > 0 ? std::max<int64_t>(0, end - c.window) : 0;
    for (int head = 0; head < c.heads; ++head) {
      const int64_t kv_head = head / (c.heads / c.kv_heads);
      const float* const keys = in.keys.data() + kv_head * in.end * c.key_dim;
      std::vector<float> latents;
      if (c.latent)
        for (int64_t i = 0; i < end; ++i)
          latents.insert(latents.end(), keys + i * c.key_dim, keys + i * c.key_dim + c.value_dim);
      const float* const values = c.latent ? latents.data() : in.values.data() + kv_head * in.end * c.value_dim;
      const double sink = c.sinks ? static_cast<double>(in.sinks[static_cast<size_t>(head)]) : -INFINITY;
      const auto expected =
          smoe::reference::attend(in.q.data() + token * AttendInputs::stride(c) + head * c.key_dim, keys, values, begin,
                                  end, c.key_dim, c.value_dim, static_cast<double>(AttendInputs::scale(c)), sink);
      const double relative = tolerance(expected, end - begin);
      for (int i = 0; i < c.value_dim; ++i) {
        const size_t at = static_cast<size_t>((token * c.heads + head) * c.value_dim + i), e = static_cast<size_t>(i);
        double value = 0;
        for (int part = 0; part < c.parts; ++part)
          value += static_cast<double>(to_float(first[at + static_cast<size_t>(part) * results]));
        const double limit =
            relative * expected.magnitude[e] + std::ldexp(std::fabs(expected.out[e]), c.parts == 1 ? -8 : -23);
        REQUIRE(close(value, expected.out[e], limit));
      }
    }
  }
  return first;
}

}  // namespace smoe::cu::test
