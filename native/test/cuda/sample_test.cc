// sample draws what the CPU draws.
#include "decoder/sampler.h"
#include "gpu.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

struct Draw {
  smoe::Sampling sampling;
  int32_t tokens = 1, position = 0;
};

int32_t sample_on(Gpu& gpu, emu::Buffer<float>& logits, const Draw& draw) {
  StepInput step;
  step.tokens = draw.tokens;
  step.position = draw.position;
  step.temperature = draw.sampling.temperature;
  step.top_p = draw.sampling.top_p;
  step.top_k = draw.sampling.top_k;
  step.seed = draw.sampling.seed;
  auto input = gpu.array(std::vector<StepInput>{step}, "step");
  const int64_t vocab = static_cast<int64_t>(logits.size());
  auto scratch = gpu.array<uint64_t>(static_cast<size_t>(sample_scratch_bytes(vocab) / 8), "scratch");
  auto token = gpu.array<int32_t>(1, "token");
  SampleArgs args;
  args.logits = logits.data();
  args.vocab = vocab;
  args.step = input.data();
  args.scratch = scratch.data();
  args.token = token.data();
  REQUIRE(launch_sample(gpu.stream(), args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(token.unwritten_bytes() == 0);
  return token.download()[0];
}

int32_t on_cpu(const std::vector<float>& logits, const Draw& draw) {
  smoe::Sampler sampler;
  return sampler.sample(logits.data(), static_cast<int64_t>(logits.size()), draw.sampling,
                        int64_t{draw.position} + draw.tokens);
}

void check(const std::vector<float>& logits, const Draw& draw, const std::vector<Run>& runs) {
  CAPTURE(logits.size());
  CAPTURE(draw.sampling.temperature);
  CAPTURE(draw.sampling.top_p);
  CAPTURE(draw.sampling.top_k);
  CAPTURE(draw.position);
  const int32_t expected = on_cpu(logits, draw);
  for (const Run& run : runs) {
    Gpu gpu(run);
    auto device = gpu.array(logits, "logits");
    REQUIRE(sample_on(gpu, device, draw) == expected);
  }
}
void check(const std::vector<float>& logits, const Draw& draw) { check(logits, draw, all_runs()); }

// Several positions, in one run each.
void check_positions(const std::vector<float>& logits, const smoe::Sampling& sampling, int32_t count) {
  for (int32_t position = 0; position < count; ++position)
    check(logits, {sampling, 1 + position % 3, position}, {nth_run(static_cast<size_t>(position % 6))});
}

}  // namespace

TEST_CASE("sample: greedy ties, infinities, NaN, nothing") {
  const float inf = INFINITY;
  for (const float temperature : {0.0f, -1.0f, NAN, 1.0f}) {
    const Draw draw{{temperature, 0.5f, 0, 1}};
    for (const std::vector<float>& logits : std::vector<std::vector<float>>{{1, 3, 3, 2},
                                                                            {-0.0f, 0.0f},
                                                                            {NAN, -inf, -5, NAN},
                                                                            {1, inf, inf},
                                                                            {3.402823466e38f, inf},
                                                                            {NAN, -inf},
                                                                            {-inf},
                                                                            {2},
                                                                            {}})
      check(logits, draw);
  }
  CHECK(on_cpu({NAN, -inf}, {}) == -1);
}

TEST_CASE("sample: the largest logit anywhere in a long row") {
  std::vector<float> logits = random_floats(9001, 3, 2);
  for (const size_t at : {size_t{0}, size_t{2047}, size_t{2048}, size_t{9000}}) {
    logits[at] = 30 + static_cast<float>(at);
    check(logits, {});
  }
}

TEST_CASE("sample: temperatures, top-k and top-p draw as on the CPU") {
  const std::vector<float> logits = random_floats(700, 1, 2);
  for (const smoe::Sampling& sampling :
       {smoe::Sampling{1, 1, 0, 5}, smoe::Sampling{0.7f, 0.9f, 0, 5}, smoe::Sampling{1.3f, 0.8f, 40, 6},
        smoe::Sampling{1, 1, 40, 7}, smoe::Sampling{1, 1, 699, 7}, smoe::Sampling{1, 1, 700, 7},
        smoe::Sampling{1, 0.95f, 5000, 7}, smoe::Sampling{3, 0.999f, 0, 0xFFFFFFFFu}, smoe::Sampling{1, 0, 0, 8},
        smoe::Sampling{1, 0.5f, 1, 8}, smoe::Sampling{1, -1, 0, 8}, smoe::Sampling{1, 1, -3, 8}}) {
    check(logits, {sampling, 1, 17});
    check_positions(logits, sampling, 12);
  }
}

TEST_CASE("sample: positions are those of the next token, up to 2^32") {
  const std::vector<float> logits = random_floats(300, 1, 1);
  for (const auto& [tokens, position] : {std::pair<int32_t, int32_t>{0, 5}, {5, 0}, {2147483647, 2147483647}})
    check(logits, {{1, 1, 0, 3}, tokens, position});
}

TEST_CASE("sample: equal logits are kept by id") {
  const std::vector<float> equal(100, 1.0f);
  for (const smoe::Sampling& sampling :
       {smoe::Sampling{1, 1, 3, 2}, smoe::Sampling{1, 0.35f, 0, 2}, smoe::Sampling{1, 0.5f, 0, 2},
        smoe::Sampling{1, 0.45f, 2, 2}, smoe::Sampling{1, 0.5f, 64, 2}})
    check_positions(equal, sampling, 12);
}

TEST_CASE("sample: more candidates than are sorted at once") {
  std::vector<float> logits = random_floats(9500, 4, 0.5f);
  logits[7] = logits[4000] = NAN;
  logits[0] = -INFINITY;
  for (const smoe::Sampling& sampling :
       {smoe::Sampling{1, 0.97f, 0, 1}, smoe::Sampling{1, 1, 6000, 2}, smoe::Sampling{2, 0.9f, 8000, 3}})
    check_positions(logits, sampling, 2);
}

TEST_CASE("sample: extreme logits and temperatures") {
  for (const float temperature : {1e-45f, 1e-38f, 1e-6f, 1.0f, 1e30f, INFINITY}) {
    for (const float top_p : {0.9f, 1.0f, NAN}) {
      check({-3e38f, 3e38f, INFINITY, NAN, -1, 3.402823466e38f}, {{temperature, top_p, 0, 1}, 1, 3});
      check(random_floats(100, 2, 1e30f), {{temperature, top_p, 5, 1}, 1, 4});
    }
  }
}

TEST_CASE("sample: a row too long for ids is refused") {
  Gpu gpu;
  SampleArgs args;
  args.vocab = int64_t{1} << 31;
  CHECK(launch_sample(gpu.stream(), args) != 0);
}
