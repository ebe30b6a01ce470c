#include "bindings/decoder_call.h"

#include <optional>

#include "bindings/layer_call.h"
#include "core/workspace_pool.h"

namespace smoe {

Status DecoderCall::forward() {
  if (decoder->device != nullptr) {
    std::unique_ptr<DeviceKvCache> temporary;
    if (cache == nullptr) temporary = decoder->device->make_cache(args.tokens);
    return decoder->device->forward(args, cache != nullptr ? *cache->device : *temporary);
  }
  const KernelTable* table;
  SMOE_RETURN_IF_ERROR(active_kernels(&table));
  std::optional<KvCache> temporary;
  if (cache == nullptr) temporary.emplace(decoder->decoder.make_cache(args.tokens));
  args.cache = cache != nullptr ? &cache->cache : &*temporary;
  WorkspacePool::Lease work = WorkspacePool::process().lease();
  return decoder->decoder.forward(args, *table, ThreadPool::process(), *work);
}

Status DecoderCall::step(const Sampling& sampling, int32_t* token) {
  if (decoder->device != nullptr) {
    SMOE_RETURN_IF_ERROR(decoder->device->step(args, sampling, *cache->device, token));
  } else {
    std::vector<float>& logits = decoder->step_logits;
    logits.resize(static_cast<size_t>(decoder->decoder.vocab));
    args.logits = logits.data();
    SMOE_RETURN_IF_ERROR(forward());
    *token = decoder->sampler.sample(logits.data(), decoder->decoder.vocab, sampling, cache->cache.length());
    if (*token < 0) cache->cache.truncate(cache->cache.length() - args.tokens);  // a failed call changes nothing
  }
  if (*token >= 0) return {};
  return Status(Code::NonFiniteInput, "the logits hold no number to choose a token from");
}

}  // namespace smoe
