// The transformer on a CUDA device: what decoder.h does, with nothing but token ids, and what was asked for, crossing
// the bus.
#pragma once

#include <memory>

#include "decoder/decoder.h"
#include "decoder/sampler.h"
#include "layer/device_moe_layer.h"

namespace smoe {

class DeviceKvCache;

class DeviceDecoder {
 public:
  // In two steps, so that a checkpoint larger than the host's memory can be loaded layer by layer: first the ends
  // (embedding, final norm, output), then each layer, which may lose its CPU weights as soon as the call returns.
  static Status create(std::shared_ptr<Device> device, const Decoder& ends, ThreadPool& pool, const CancelFlag* cancel,
                       std::unique_ptr<DeviceDecoder>* out);
  Status add_layer(const DecoderLayer& layer, ThreadPool& pool, const CancelFlag* cancel);
  ~DeviceDecoder();

  const std::shared_ptr<Device>& device() const;
  size_t bytes() const;  // on the device
  std::unique_ptr<DeviceKvCache> make_cache(int64_t capacity) const;

  // As Decoder::forward(); args.cache is not read, `cache` is what it was. `shape`: the Decoder that this was made from
  // (its configuration; weights are not touched).
  Status forward(const Decoder& shape, const Decoder::Forward& args, DeviceKvCache& cache);
  // The tokens, then one drawn from the last logits; -1: nothing to choose from, the cache is as it was. With few
  // tokens the launches are captured once and replayed.
  Status step(const Decoder& shape, const Decoder::Forward& args, const Sampling& sampling, DeviceKvCache& cache,
              int32_t* token);

 private:
  DeviceDecoder() = default;
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

// Keys and values of one sequence in pages on a device (cuda/operands.h, KvPages).
class DeviceKvCache {
 public:
  ~DeviceKvCache();
  int64_t length() const;
  int64_t capacity() const;
  size_t bytes() const;
  Status reserve(int64_t length);
  void truncate(int64_t length);

 private:
  friend class DeviceDecoder;
  DeviceKvCache();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace smoe
