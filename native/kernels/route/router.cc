#include "kernels/route/router.h"

#include "kernels/route/steps.h"

namespace smoe {
namespace {

Status validate_groups(const RouterConfig& config) {
  const long long experts = config.experts, groups = config.groups, kept = config.groups_kept;
  if (groups < 1 || groups > kMaxGroups) {
    return error(Code::InvalidSpec, "select.groups: expected 1 to %d, got %lld", kMaxGroups, groups);
  }
  if (experts % groups != 0) {
    return error(Code::InvalidSpec, "select.groups: %lld groups do not divide %lld experts", groups, experts);
  }
  if (kept < 1 || kept > groups) {
    return error(Code::InvalidSpec, "select.groupsKept: expected 1 to %lld (groups), got %lld", groups, kept);
  }
  if (config.group_reduce == GroupReduce::Sum2 && kept < groups && experts / groups < 2) {
    return error(Code::InvalidSpec, "select.reduce: 'sum2' needs groups of at least 2 experts, got groups of 1");
  }
  if (config.group_fill == GroupFill::NegInf && config.k > kept * (experts / groups)) {
    return error(Code::InvalidSpec, "select.k: %d experts cannot come out of %lld groups of %lld", config.k, kept,
                 experts / groups);
  }
  return {};
}

template <class Enum>
bool known(Enum value, Enum last) {
  return static_cast<int>(value) >= 0 && static_cast<int>(value) <= static_cast<int>(last);
}

RouteContext make_context(const KernelTable& kernels, const RouterConfig& config, const float* logits,
                          const float* bias, float* scratch, int32_t* ids, float* weights) {
  const float* const used_bias = config.has_bias ? bias : nullptr;
  return {kernels, config, logits, used_bias, scratch, scratch + config.experts, ids, weights};
}

}  // namespace

Status validate(const RouterConfig& config) {
  if (config.experts < 1 || config.experts > (int64_t{1} << 20)) {
    return error(Code::InvalidSpec, "experts: expected 1 to 1048576, got %lld", static_cast<long long>(config.experts));
  }
  if (config.k < 1 || config.k > config.experts) {
    return error(Code::InvalidSpec, "select.k: expected 1 to %lld (experts), got %d",
                 static_cast<long long>(config.experts), config.k);
  }
  if (!known(config.score, ScoreFn::Sigmoid) || !known(config.select, SelectKind::GroupTopK) ||
      !known(config.group_reduce, GroupReduce::Sum2) || !known(config.group_fill, GroupFill::Zero) ||
      !known(config.source, WeighSource::Logit) || !known(config.post, WeighPost::Sigmoid) ||
      !known(config.norm_eps, NormEps::ZeroSafe)) {
    return error(Code::InvalidSpec, "router: a rule that this build does not know");
  }
  if (config.select == SelectKind::GroupTopK) SMOE_RETURN_IF_ERROR(validate_groups(config));
  if (!(config.norm_p >= 0) || !std::isfinite(config.norm_p)) {
    return error(Code::InvalidSpec, "weigh.norm.p: expected a finite number >= 0, got %g", config.norm_p);
  }
  if (!(config.eps >= 0) || !std::isfinite(config.eps)) {
    return error(Code::InvalidSpec, "weigh.norm.eps: expected a finite number >= 0, got %g", config.eps);
  }
  if (!std::isfinite(config.scale)) {
    return error(Code::InvalidSpec, "weigh.scale: expected a finite number, got %g", config.scale);
  }
  return {};
}

void route_general(const KernelTable& kernels, const RouterConfig& config, const float* logits, const float* bias,
                   float* scratch, int32_t* ids, float* weights, int32_t* count) {
  RouteContext context = make_context(kernels, config, logits, bias, scratch, ids, weights);
  if (score_experts(context) > 0) {
    make_keys(context);
    select_experts(context);
  }
  weigh_experts(context);
  *count = context.count;
}

// Differs in the selection alone. Selecting on logits instead, and scoring only the k selected, would not be the same
// to the bit: scores tie where logits differ (sigmoid is exactly 1 from logit 17 on, softmax underflows), and then the
// lower id must win; all scores of a row cost less than the selection anyway.
void route_token(const KernelTable& kernels, const RouterConfig& config, const float* logits, const float* bias,
                 float* scratch, int32_t* ids, float* weights, int32_t* count) {
  RouteContext context = make_context(kernels, config, logits, bias, scratch, ids, weights);
  if (score_experts(context) > 0) {
    make_keys(context);
    select_in_one_pass(context);
  }
  weigh_experts(context);
  *count = context.count;
}

}  // namespace smoe
