// Negative log-likelihood against double.
#include "gpu.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

std::vector<double> run_nll(const std::vector<float>& logits, const std::vector<int32_t>& targets, const Run& run) {
  Gpu gpu(run);
  auto l = gpu.array(logits, "logits");
  auto t = gpu.array(targets, "targets");
  auto out = gpu.array<double>(targets.size(), "nll");
  NllArgs args;
  args.logits = l.data();
  args.targets = t.data();
  args.tokens = int64_t(targets.size());
  args.vocab = targets.empty() ? 5 : int64_t(logits.size() / targets.size());
  args.nll = out.data();
  REQUIRE(launch_nll(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(out.unwritten_bytes() == 0);
  return out.download();
}

void check(int tokens, int vocab, float scale) {
  CAPTURE(tokens);
  CAPTURE(vocab);
  CAPTURE(scale);
  const auto logits = random_floats(size_t(tokens * vocab), 1, scale);
  std::vector<int32_t> targets;
  for (int t = 0; t < tokens; ++t) targets.push_back(t == 0 ? vocab - 1 : t * 31 % vocab);
  std::vector<double> first;
  for (const Run& run : all_runs()) {
    const auto got = run_nll(logits, targets, run);
    if (first.empty()) first = got;
    REQUIRE((got.empty() || std::memcmp(got.data(), first.data(), got.size() * sizeof(double)) == 0));
  }
  for (size_t t = 0; t < size_t(tokens); ++t) {
    const float* const row = &logits[t * size_t(vocab)];
    double top = double(row[0]), sum = 0;
    for (int i = 0; i < vocab; ++i) top = std::max(top, double(row[i]));
    for (int i = 0; i < vocab; ++i) sum += std::exp(double(row[i]) - top);
    const double expected = std::log(sum) + top - double(row[targets[t]]);
    // A term's relative error is that of the rounded difference, 2^-24 of it, and expf's 2^-22; terms more than
    // 40 below the top do not show.
    CHECK(close(first[t], expected, std::ldexp(40, -24) + std::ldexp(1, -22) + 1e-12 * std::fabs(expected)));
  }
}

}  // namespace

TEST_CASE("nll: tokens, vocabularies, scales") {
  for (const int tokens : {0, 1, 7, 8, 9, 64, 65}) check(tokens, 37, 3);
  for (const int vocab : {1, 2, 511, 512, 513, 5003}) check(2, vocab, 5);
  for (const float scale : {0.0f, 1e-3f, 100.0f, 1e30f}) check(2, 700, scale);
}

TEST_CASE("nll: -inf is no token, NaN shows") {
  const float inf = INFINITY;
  const auto nll = run_nll({0, -inf, 0, -inf, NAN, 0, 0, 0}, {0, 1}, nth_run(0));
  CHECK(close(nll[0], std::log(2.0), 1e-12));
  CHECK(std::isnan(nll[1]));
  CHECK(run_nll({0, -inf, 0}, {1}, nth_run(0))[0] == double(inf));
}
