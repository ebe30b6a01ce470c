// The transformer on a CUDA device: what decoder.h does, with nothing but token ids, and what was asked for, crossing
// the bus.
//
// A token's bits depend on the tokens before it, on the device's model, and for each of these tokens, itself included,
// on the kind of call that it came in: of up to 64 tokens (kFewRows) or of more, and below that of so few that a MoE
// layer's experts get less than eight each (DeviceMoeLayer::few_rows()) or not: each kind has its own order of sums.
// They depend neither on how many tokens there were in a call of one kind, nor on where a long call was cut, nor on how
// much the cache holds besides, nor on whether launches were replayed from a graph. The logits of a call of up to 64
// tokens have that property too; in a longer one, those of the last token alone differ by rounding from the same
// token's among all.
#pragma once

#include <memory>

#include "decoder/decoder.h"
#include "decoder/device_kv_cache.h"
#include "decoder/sampler.h"
#include "layer/device_moe_layer.h"

namespace smoe {

class DeviceDecoder {
 public:
  // In two steps, so that a checkpoint larger than the host's memory can be loaded layer by layer: first the ends
  // (embedding, final norm, output, momentum), then each layer, which may lose its CPU weights as soon as the call
  // returns. Both refuse shapes that do not agree, as Decoder::validate() does, and sizes that the kernels do not take.
  static Status create(std::shared_ptr<Device> device, const Decoder& ends, ThreadPool& pool, const CancelFlag* cancel,
                       std::unique_ptr<DeviceDecoder>* out);
  Status add_layer(const DecoderLayer& layer, ThreadPool& pool, const CancelFlag* cancel);
  ~DeviceDecoder();

  const std::shared_ptr<Device>& device() const;
  // The configuration of the ends and of every layer added; its matrices are empty.
  const Decoder& shape() const;
  // Neither while a call runs.
  size_t bytes() const;          // weights on the device
  size_t scratch_bytes() const;  // beside them, kept between calls
  // For the layers added so far.
  std::unique_ptr<DeviceKvCache> make_cache(int64_t capacity) const;
  // Most tokens that go through the layers together; 0: what memory allows. Longer calls are cut into pieces of equal
  // size, which have more than kFewRows tokens when that is more than 2 * kFewRows.
  void set_chunk_tokens(int64_t most);

  // As Decoder::forward(); args.cache is not read, `cache` is what it was.
  Status forward(const Decoder::Forward& args, DeviceKvCache& cache);
  // The tokens, then one drawn from the last logits; -1: nothing to choose from, the cache is as it was. Up to
  // kStepTokens tokens without logits, nll or trace: from the second such call on the launches are replayed from a
  // graph (the first one may still load kernels, which a capture does not bear).
  Status step(const Decoder::Forward& args, const Sampling& sampling, DeviceKvCache& cache, int32_t* token);
  static constexpr int64_t kStepTokens = 8;
  int graphs() const;  // that are kept

 private:
  DeviceDecoder() = default;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace smoe
