#include "bindings/router_config.h"

#include <cmath>

#include "bindings/convert.h"
#include "bindings/errors.h"

namespace smoe {
namespace {

// Ids are int32 and a row of logits must stay a sensible allocation.
constexpr int64_t kMaxExperts = 1 << 20;

constexpr const char* kScores[] = {"identity", "softmax", "sigmoid"};
constexpr const char* kSelects[] = {"topK", "groupTopK"};
constexpr const char* kReduces[] = {"max", "sum2"};
constexpr const char* kFills[] = {"negInf", "zero"};
constexpr const char* kSources[] = {"score", "logit"};
constexpr const char* kPosts[] = {"none", "softmax", "sigmoid"};
constexpr const char* kNormEps[] = {"none", "add", "clampMin", "zeroSafe"};

// Reads fields of one object; absent ones keep what they are.
struct Fields {
  napi_env env;
  napi_value object;
  const std::string& name;

  bool find(const char* key, napi_value* value, std::string* full) const {
    *value = property(env, object, key, name.c_str());
    *full = name + "." + key;
    return !is_nullish(env, *value);
  }
  template <class E, size_t N>
  void read(const char* key, const char* const (&names)[N], E* out) const {
    napi_value value;
    std::string full;
    if (find(key, &value, &full)) *out = choice<E>(env, value, full.c_str(), names);
  }
  void read(const char* key, float* out) const {
    napi_value value;
    std::string full;
    if (find(key, &value, &full)) *out = static_cast<float>(number(env, value, full.c_str()));
  }
  void read(const char* key, int* out) const {
    napi_value value;
    std::string full;
    if (find(key, &value, &full)) *out = static_cast<int>(integer(env, value, full.c_str(), 0, kMaxExperts));
  }
  void read(const char* key, bool* out) const {
    napi_value value;
    std::string full;
    if (find(key, &value, &full)) *out = boolean(env, value, full.c_str());
  }
};

}  // namespace

RouterArgs parse_router(napi_env env, napi_value value, const std::string& name) {
  RouterArgs args;
  RouterConfig& config = args.config;
  const Fields fields{env, value, name};
  config.experts =
      integer(env, property(env, value, "experts", name.c_str()), (name + ".experts").c_str(), 1, kMaxExperts);
  fields.read("score", kScores, &config.score);
  fields.read("select", kSelects, &config.select);
  fields.read("k", &config.k);
  fields.read("groups", &config.groups);
  fields.read("groupsKept", &config.groups_kept);
  fields.read("groupReduce", kReduces, &config.group_reduce);
  fields.read("groupFill", kFills, &config.group_fill);
  fields.read("source", kSources, &config.source);
  fields.read("post", kPosts, &config.post);
  fields.read("normP", &config.norm_p);
  fields.read("normEps", kNormEps, &config.norm_eps);
  fields.read("eps", &config.eps);
  fields.read("scale", &config.scale);
  fields.read("weightOnInput", &config.weight_on_input);
  const napi_value bias = property(env, value, "modelBias", name.c_str());
  if (!is_nullish(env, bias)) {
    const float* data = f32_array(env, bias, (name + ".modelBias").c_str(), config.experts);
    args.model_bias.assign(data, data + config.experts);
    config.has_bias = true;
  }
  throw_if_error(env, validate(config));
  return args;
}

RoutingArrays::RoutingArrays(int64_t tokens, int slots)
    : ids(static_cast<size_t>(tokens) * slots),
      count(static_cast<size_t>(tokens)),
      weights(static_cast<size_t>(tokens) * slots) {}

Routing RoutingArrays::view(int64_t tokens, int slots) {
  Routing routing;
  routing.tokens = tokens;
  routing.slots = slots;
  routing.ids = ids.data();
  routing.weights = weights.data();
  routing.count = count.data();
  return routing;
}

Napi::Object RoutingArrays::to_js(Napi::Env env, const std::vector<float>* logits) const {
  const auto length = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  Napi::Object result = Napi::Object::New(env);
  result.Set("ids", copied_array(env, napi_int32_array, ids.data(), length(ids)));
  result.Set("weights", copied_array(env, napi_float32_array, weights.data(), length(weights)));
  result.Set("count", copied_array(env, napi_int32_array, count.data(), length(count)));
  if (logits != nullptr) {
    result.Set("logits", copied_array(env, napi_float32_array, logits->data(), length(*logits)));
  }
  return result;
}

Status check_assignments(const int32_t* ids, const float* weights, int64_t tokens, int slots, int64_t experts) {
  for (int64_t i = 0; i < tokens * slots; i++) {
    const auto row = static_cast<long long>(i / slots);
    if (ids[i] < -1 || ids[i] >= experts) {
      return error(Code::InvalidArgument, "routing.ids: row %lld holds %d, expected -1 or an expert below %lld", row,
                   ids[i], static_cast<long long>(experts));
    }
    if (!std::isfinite(weights[i])) {
      return error(Code::NonFiniteInput, "routing.weights: row %lld holds NaN or infinity", row);
    }
  }
  return {};
}

}  // namespace smoe
