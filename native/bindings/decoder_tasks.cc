#include "bindings/decoder_tasks.h"

#include "bindings/cancel_token_object.h"
#include "bindings/decoder_call.h"
#include "bindings/forward_args.h"
#include "bindings/in_use.h"
#include "bindings/trace_object.h"

namespace smoe {
namespace {

// What the four calls have in common: token ids, a cache (a temporary one without an argument), statistics.
class DecoderTask : public AsyncTask {
 public:
  DecoderTask(napi_env env, std::shared_ptr<NativeDecoder> decoder, napi_value ids)
      : decoder_(std::move(decoder)), counts_(decoder_->counts.size()) {
    ids_ = copy_ids(env, ids, "ids");
    if (ids_.empty()) throw_error(env, Code::InvalidArgument, "ids must hold at least one token");
  }

  void use_cache(napi_env env, napi_value value) {
    const std::shared_ptr<NativeKvCache>& cache = KvCacheObject::from(env, value, "cache").native(env);
    if (cache->decoder.lock() != decoder_) {
      throw_error(env, Code::InvalidArgument, "cache was made for another decoder");
    }
    const int64_t left = cache->length > cache->cache.capacity() ? 0 : cache->cache.capacity() - cache->length;
    cache_ = InUse<NativeKvCache>(env, cache, "cache");
    if (tokens() > left) {
      throw_error(env, Code::ContextOverflow, "%lld tokens after %lld do not fit into a cache of %lld",
                  static_cast<long long>(tokens()), static_cast<long long>(cache->length),
                  static_cast<long long>(cache->cache.capacity()));
    }
  }
  // A number for every expert, or an array with one Uint8Array per MoE layer.
  void use_expert_bits(napi_env env, napi_value value) {
    if (is_nullish(env, value)) return;
    const Decoder& decoder = decoder_->decoder;
    const auto most = static_cast<size_t>(decoder.max_experts());
    if (Napi::Value(env, value).IsNumber()) {
      const auto bits = static_cast<uint8_t>(integer(env, value, "expertBits", 2, 8));
      expert_bits_.assign(counts_.size(), bits);
      return;
    }
    const int64_t layers = decoder.moe_layers();
    if (!Napi::Value(env, value).IsArray() || Napi::Array(env, value).Length() != layers) {
      throw_error(env, Code::InvalidArgument,
                  "expertBits must be a number or one Uint8Array for each of %lld MoE layers",
                  static_cast<long long>(layers));
    }
    std::vector<uint8_t> all(counts_.size());
    uint32_t index = 0;
    for (const DecoderLayer& layer : decoder.layers) {
      if (layer.moe == nullptr) continue;
      const napi_value row = Napi::Array(env, value).Get(index);
      const std::vector<uint8_t> bits = parse_expert_bits(env, row, "expertBits", layer.moe->config.router.experts);
      std::copy(bits.begin(), bits.end(), all.begin() + static_cast<std::ptrdiff_t>(index++ * most));
    }
    expert_bits_ = std::move(all);
  }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }

 protected:
  // A call with everything but what is asked for.
  DecoderCall call() {
    DecoderCall call;
    call.decoder = decoder_.get();
    call.cache = cache_.get();
    call.args.ids = ids_.data();
    call.args.tokens = tokens();
    call.args.expert_counts = counts_.empty() ? nullptr : counts_.data();
    call.args.expert_bits = expert_bits_.empty() ? nullptr : expert_bits_.data();
    call.args.cancel = cancel();
    return call;
  }
  virtual Status compute() = 0;
  Status run() final {
    const Status status = compute();
    if (decoder_->device != nullptr) scratch_ = static_cast<int64_t>(decoder_->device->scratch_bytes());
    return status;
  }
  void finished(Napi::Env env, const Status& status) noexcept override {
    if (cache_.get() != nullptr) cache_->settle(env);
    cache_.release();
    if (scratch_ >= 0) {
      decoder_->device_scratch = static_cast<size_t>(scratch_);
      decoder_->report(env);
    }
    if (!status.ok()) return;
    for (size_t i = 0; i < counts_.size(); i++) decoder_->counts[i] += counts_[i];
  }

  std::vector<int32_t> copy_ids(napi_env env, napi_value value, const char* name) {
    const TypedView view = typed_array(env, value, name, napi_int32_array, kAnyLength);
    const auto* ids = static_cast<const int32_t*>(view.data);
    std::vector<int32_t> copy(ids, ids + view.length);
    const auto vocab = static_cast<long long>(decoder_->decoder.vocab);
    for (size_t i = 0; i < copy.size(); i++) {
      if (copy[i] < 0 || copy[i] >= vocab) {
        throw_error(env, Code::TokenOutOfRange, "%s[%zu] must be in [0, %lld), got %d", name, i, vocab, copy[i]);
      }
    }
    return copy;
  }

  std::shared_ptr<NativeDecoder> decoder_;
  std::vector<int32_t> ids_;
  InUse<NativeKvCache> cache_;
  std::vector<uint64_t> counts_;
  std::vector<uint8_t> expert_bits_;  // [MoE layers, max experts] or empty
  int64_t scratch_ = -1;              // what the device keeps after the call; -1: it did not run there
};

class ForwardTask : public DecoderTask {
 public:
  using DecoderTask::DecoderTask;

  // The array is unreachable from JavaScript until the promise settles, so the op thread fills it directly.
  void make_logits(napi_env env, bool all) {
    all_ = all;
    const int64_t rows = all ? tokens() : 1;
    const NewArray made =
        new_array(env, napi_float32_array, element_count(env, rows, decoder_->decoder.vocab, "logits"));
    logits_ = static_cast<float*>(made.data);
    keep(made);
  }

 protected:
  Status compute() override {
    DecoderCall one = call();
    one.args.all_logits = all_;
    one.args.logits = logits_;
    return one.forward();
  }

  bool all_ = true;
  float* logits_ = nullptr;
};

class StepTask : public DecoderTask {
 public:
  using DecoderTask::DecoderTask;
  Sampling sampling;

 protected:
  Status compute() override { return call().step(sampling, &token_); }
  Napi::Value result(Napi::Env env) override { return Napi::Number::New(env, token_); }

 private:
  int32_t token_ = -1;
};

class NllTask : public DecoderTask {
 public:
  NllTask(napi_env env, std::shared_ptr<NativeDecoder> decoder, napi_value ids, napi_value targets)
      : DecoderTask(env, std::move(decoder), ids) {
    targets_ = copy_ids(env, targets, "targets");
    if (targets_.size() != ids_.size()) {
      throw_error(env, Code::ShapeMismatch, "targets must have %zu elements as ids, got %zu", ids_.size(),
                  targets_.size());
    }
    const NewArray made = new_array(env, napi_float64_array, tokens());
    nll_ = static_cast<double*>(made.data);
    keep(made);
  }

 protected:
  Status compute() override {
    DecoderCall one = call();
    one.args.nll = nll_;
    one.args.targets = targets_.data();
    return one.forward();
  }

 private:
  std::vector<int32_t> targets_;
  double* nll_ = nullptr;
};

class TraceTask : public ForwardTask {
 public:
  using ForwardTask::ForwardTask;

 protected:
  Status compute() override {
    DecoderCall one = call();
    one.args.all_logits = true;
    one.args.logits = logits_;
    one.args.trace = &layers_;
    return one.forward();
  }
  Napi::Value result(Napi::Env env) override { return trace_object(env, kept(), layers_); }

 private:
  std::vector<LayerTrace> layers_;
};

Sampling parse_sampling(napi_env env, napi_value value) {
  const auto field = [&](const char* key) { return property(env, value, key, "sampling"); };
  Sampling sampling;
  sampling.temperature = static_cast<float>(number(env, field("temperature"), "sampling.temperature"));
  sampling.top_p = static_cast<float>(number(env, field("topP"), "sampling.topP"));
  sampling.top_k = static_cast<int>(integer(env, field("topK"), "sampling.topK", 0, INT32_MAX));
  sampling.seed = static_cast<uint32_t>(integer(env, field("seed"), "sampling.seed", 0, UINT32_MAX));
  if (!(sampling.temperature >= 0) || !(sampling.top_p > 0 && sampling.top_p <= 1)) {
    throw_error(env, Code::InvalidArgument,
                "sampling: temperature must be at least 0 and topP in (0, 1], got %g and %g", sampling.temperature,
                sampling.top_p);
  }
  return sampling;
}

}  // namespace

Napi::Value start_decoder_forward(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder) {
  static const char* const kinds[] = {"all", "last"};
  const Napi::Env env = info.Env();
  auto task = std::make_shared<ForwardTask>(env, std::move(decoder), info[0]);
  if (!is_nullish(env, info[1])) task->use_cache(env, info[1]);
  std::shared_ptr<CancelFlag> cancel = CancelTokenObject::flag_of(env, info[3]);
  task->use_expert_bits(env, info[4]);
  task->make_logits(env, choice_index(env, info[2], "logits", kinds, 2) == 0);
  return AsyncTask::start(env, std::move(task), std::move(cancel));
}

Napi::Value start_decoder_step(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder) {
  const Napi::Env env = info.Env();
  const Sampling sampling = parse_sampling(env, info[2]);
  auto task = std::make_shared<StepTask>(env, std::move(decoder), info[0]);
  task->sampling = sampling;
  task->use_expert_bits(env, info[4]);
  task->use_cache(env, info[1]);
  return AsyncTask::start(env, std::move(task), CancelTokenObject::flag_of(env, info[3]));
}

Napi::Value start_decoder_nll(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder) {
  auto task = std::make_shared<NllTask>(info.Env(), std::move(decoder), info[0], info[1]);
  task->use_expert_bits(info.Env(), info[3]);
  return AsyncTask::start(info.Env(), std::move(task), CancelTokenObject::flag_of(info.Env(), info[2]));
}

Napi::Value start_decoder_trace(const Napi::CallbackInfo& info, std::shared_ptr<NativeDecoder> decoder) {
  auto task = std::make_shared<TraceTask>(info.Env(), std::move(decoder), info[0]);
  task->make_logits(info.Env(), true);
  return AsyncTask::start(info.Env(), std::move(task), CancelTokenObject::flag_of(info.Env(), info[1]));
}

}  // namespace smoe
