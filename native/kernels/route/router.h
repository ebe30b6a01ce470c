// Routing: logits -> score -> key -> select -> weigh, as specs/routing.md section 0 orders it. The result, the
// universal assignment form, is the only thing that passes between routing and the rest.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"
#include "kernels/kernel_table.h"

namespace smoe {

enum class ScoreFn : int { Identity = 0, Softmax = 1, Sigmoid = 2 };
enum class SelectKind : int { TopK = 0, GroupTopK = 1 };
enum class GroupReduce : int { Max = 0, Sum2 = 1 };   // group score: best key, or the sum of the two best
enum class GroupFill : int { NegInf = 0, Zero = 1 };  // key given to experts of groups that were not kept
enum class WeighSource : int { Score = 0, Logit = 1 };
enum class WeighPost : int { None = 0, Softmax = 1, Sigmoid = 2 };
// What to divide by, of a sum s: s, s + eps, max(s, eps), or s > 0 ? s : 1. Where that comes to 0 (all selected scores
// underflowed), the weights are 0 rather than NaN.
enum class NormEps : int { None = 0, Add = 1, ClampMin = 2, ZeroSafe = 3 };

struct RouterConfig {
  int64_t experts = 0;  // E
  ScoreFn score = ScoreFn::Softmax;
  bool has_bias = false;  // key = score + model bias (selection only)
  SelectKind select = SelectKind::TopK;
  int k = 1;
  int groups = 1, groups_kept = 1;
  GroupReduce group_reduce = GroupReduce::Sum2;
  GroupFill group_fill = GroupFill::NegInf;
  WeighSource source = WeighSource::Score;
  WeighPost post = WeighPost::None;
  float norm_p = 0;  // 0: do not normalise; 1: divide by the sum; p: by the L_p norm
  NormEps norm_eps = NormEps::None;
  float eps = 0;
  float scale = 1;
  bool weight_on_input = false;  // w multiplies the expert's input (Llama-4) instead of its output
};

// Refuses what cannot be built (k > E, groups that do not divide E, sum2 with groups of one, p < 0 ...).
Status validate(const RouterConfig& config);

// Assignments of T tokens. Unused slots: id -1, weight 0. Slots are ordered (key descending, id ascending).
struct Routing {
  int64_t tokens = 0;
  int slots = 0;             // K
  int32_t* ids = nullptr;    // [T, K]
  float* weights = nullptr;  // [T, K]
  int32_t* count = nullptr;  // [T]
};

// Routes one token from its logits. NaN -> -inf, +inf -> largest finite; an expert whose logit or key is then -inf is
// never selected, so that count may be below k, down to 0. ids are always distinct, weights finite.
// scratch: 2*E floats. bias: [E] or null (read only with has_bias). ids, weights: [k]. Both paths
// give the same ids and the same weights to the bit; route_token selects in one pass over the keys, route_general by
// walking the total order as the specification words it, and is where rules that one pass cannot do will go.
void route_token(const KernelTable& kernels, const RouterConfig& config, const float* logits, const float* bias,
                 float* scratch, int32_t* ids, float* weights, int32_t* count);
void route_general(const KernelTable& kernels, const RouterConfig& config, const float* logits, const float* bias,
                   float* scratch, int32_t* ids, float* weights, int32_t* count);

}  // namespace smoe
