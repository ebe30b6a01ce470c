// The next token from one row of logits.
#pragma once

#include <cstdint>
#include <vector>

namespace smoe {

struct Sampling {
  float temperature = 0;  // 0 (or less): greedy
  float top_p = 1;        // smallest set of likeliest tokens whose probabilities reach top_p; 1 = all
  int top_k = 0;          // at most this many likeliest tokens; 0 = all
  uint32_t seed = 0;
};

// Draws a token id; the draw depends on (logits, seed, position) only, so a continuation can be repeated from anywhere.
// Equal logits rank by ascending id. NaN and -inf are never chosen, +inf counts as the largest finite value; -1 when
// nothing is left to choose from.
class Sampler {
 public:
  int32_t sample(const float* logits, int64_t vocab, const Sampling& sampling, int64_t position);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  static bool ranks_before(const Candidate& a, const Candidate& b);
  double total_weight(float temperature, float top);
  void keep_top_k(int k);
  double keep_top_p(float top_p, float temperature, float top);

  std::vector<Candidate> candidates_;  // kept between calls to spare the allocation
  std::vector<double> weights_;
};

// Lowest id of the largest logit, NaN passed over; -1 when there is no number above -inf.
int32_t argmax(const float* logits, int64_t vocab);
// Uniform in [0, 1) from a counter: equal arguments give equal numbers on every machine.
double uniform_at(uint32_t seed, uint64_t position);

}  // namespace smoe
