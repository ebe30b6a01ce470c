#include "kernels/route/steps.h"

namespace smoe {

int64_t score_experts(RouteContext& context) {
  const int64_t experts = context.config.experts;
  float* const score = context.score;
  int64_t masked = 0;
  for (int64_t e = 0; e < experts; ++e) {
    score[e] = sanitised(context.logits[e]);
    masked += score[e] < -FLT_MAX;
  }
  if (masked == experts) return 0;
  switch (context.config.score) {
    case ScoreFn::Identity:
      break;
    case ScoreFn::Softmax:
      context.kernels.softmax(score, experts, score);
      break;
    case ScoreFn::Sigmoid:
      context.kernels.sigmoid(score, experts, score);
      break;
  }
  return experts - masked;
}

}  // namespace smoe
