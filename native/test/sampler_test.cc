#include "decoder/sampler.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

using namespace smoe;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

int32_t draw(const std::vector<float>& logits, const Sampling& sampling, int64_t position) {
  static Sampler sampler;
  return sampler.sample(logits.data(), static_cast<int64_t>(logits.size()), sampling, position);
}

std::vector<double> frequencies(const std::vector<float>& logits, Sampling sampling, int draws) {
  std::vector<double> seen(logits.size(), 0);
  for (int i = 0; i < draws; ++i) seen[static_cast<size_t>(draw(logits, sampling, i))] += 1.0 / draws;
  return seen;
}

}  // namespace

TEST_CASE("greedy takes the lowest id of the largest logit") {
  CHECK(draw({1, 3, 3, 2}, {}, 0) == 1);
  CHECK(draw({-0.0f, 0.0f}, {}, 0) == 0);
  CHECK(draw({NAN, -kInf, -5, NAN}, {}, 0) == 2);
  CHECK(draw({1, kInf, kInf}, {}, 0) == 1);
  CHECK(draw({NAN, -kInf}, {}, 0) == -1);
  CHECK(draw({}, {}, 0) == -1);
}

TEST_CASE("a draw depends on logits, seed and position only") {
  std::mt19937 engine(1);
  std::vector<float> logits(300);
  for (float& logit : logits) logit = std::normal_distribution<float>(0, 2)(engine);
  for (const Sampling& sampling : {Sampling{1, 1, 0, 5}, Sampling{0.7f, 0.9f, 0, 5}, Sampling{1.3f, 0.8f, 40, 5}}) {
    std::vector<int32_t> forward, backward(50);
    for (int64_t position = 0; position < 50; ++position) forward.push_back(draw(logits, sampling, position));
    for (int64_t position = 49; position >= 0; --position)
      backward[static_cast<size_t>(position)] = draw(logits, sampling, position);
    CHECK(forward == backward);
    Sampling reseeded = sampling;
    reseeded.seed = 6;
    int same = 0;
    for (int64_t position = 0; position < 50; ++position)
      same += draw(logits, reseeded, position) == forward[static_cast<size_t>(position)];
    CHECK(same < 45);
  }
  CHECK(uniform_at(1, 2) == uniform_at(1, 2));
  CHECK(uniform_at(1, 2) != uniform_at(2, 1));
}

TEST_CASE("frequencies follow the softmax at a temperature") {
  const std::vector<float> logits{0, 1, 2, -kInf, NAN};
  // 20,000 draws: a standard deviation of at most 0.0036; four of them.
  const std::vector<double> seen = frequencies(logits, {2, 1, 0, 9}, 20000);
  const double e[] = {1, std::exp(0.5), std::exp(1.0)}, sum = e[0] + e[1] + e[2];
  for (size_t i = 0; i < 3; ++i) CHECK(std::fabs(seen[i] - e[i] / sum) < 0.0144);
  CHECK(seen[3] == 0);
  CHECK(seen[4] == 0);
  double mean = 0;
  for (uint64_t i = 0; i < 20000; ++i) mean += uniform_at(3, i) / 20000;
  CHECK(std::fabs(mean - 0.5) < 4 * 0.289 / std::sqrt(20000.0));
}

TEST_CASE("top k and top p keep the likeliest, equal ones by id") {
  const std::vector<float> equal(10, 1.0f);
  std::vector<double> seen = frequencies(equal, {1, 1, 3, 2}, 500);
  for (size_t i = 0; i < 10; ++i) CHECK((seen[i] > 0) == (i < 3));
  seen = frequencies(equal, {1, 0.35f, 0, 2}, 500);
  for (size_t i = 0; i < 10; ++i) CHECK((seen[i] > 0) == (i < 4));  // 0.3 does not reach 0.35
  // top p counts within what top k left
  seen = frequencies(equal, {1, 0.45f, 2, 2}, 500);
  for (size_t i = 0; i < 10; ++i) CHECK((seen[i] > 0) == (i < 1));
  CHECK(draw({1, 5, 2}, {1, 1e-9f, 0, 0}, 7) == 1);
  CHECK(draw({1, 5, 2}, {1, 0, 0, 0}, 7) == 1);
}

TEST_CASE("a long tail is cut exactly where the sum reaches top p") {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[(i * 1237) % 5000] = static_cast<float>(-0.001 * i);
  // Weights e^(-0.001 i): the first n hold (1 - e^(-n/1000)) / (1 - e^-5) of the whole.
  const size_t cut = static_cast<size_t>(std::ceil(-1000 * std::log(1 - 0.5 * (1 - std::exp(-5.0)))));
  size_t farthest = 0;
  for (int64_t position = 0; position < 4000; ++position) {
    const float logit = logits[static_cast<size_t>(draw(logits, {1, 0.5f, 0, 3}, position))];
    farthest = std::max(farthest, static_cast<size_t>(std::lround(-logit / 0.001f)));
  }
  CHECK(farthest < cut + 2);
  CHECK(farthest + 20 > cut);
}

TEST_CASE("extreme logits and temperatures draw something") {
  for (const float temperature : {1e-38f, 1e-6f, 1.0f, 1e30f}) {
    const int32_t id = draw({-3e38f, 3e38f, kInf, NAN}, {temperature, 0.9f, 0, 1}, 3);
    CHECK((id >= 0 && id <= 2));
  }
  CHECK(draw({NAN, NAN}, {1, 1, 0, 1}, 3) == -1);
}
