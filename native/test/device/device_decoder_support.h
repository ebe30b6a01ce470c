// Tiny decoders on the emulated device, beside the same ones on the CPU.
#pragma once

#include "../decoder_support.h"
#include "../emulated_device.h"
#include "decoder/device_decoder.h"

namespace smoe::test {

inline std::unique_ptr<DeviceDecoder> upload(const Decoder& model,
                                             std::shared_ptr<Device> device = smoe_test::emulated_device()) {
  std::unique_ptr<DeviceDecoder> made;
  ThreadPool pool(1);
  Status status = DeviceDecoder::create(std::move(device), model, pool, nullptr, &made);
  REQUIRE_MESSAGE(status.ok(), status.message());
  for (const DecoderLayer& layer : model.layers) {
    status = made->add_layer(layer, pool, nullptr);
    REQUIRE_MESSAGE(status.ok(), status.message());
  }
  return made;
}

struct DeviceSession {
  DeviceDecoder& decoder;
  std::unique_ptr<DeviceKvCache> cache;

  explicit DeviceSession(DeviceDecoder& on, int64_t capacity = 1024) : decoder(on), cache(on.make_cache(capacity)) {}

  static Decoder::Forward with(Decoder::Forward args, const std::vector<int32_t>& ids) {
    args.ids = ids.data();
    args.tokens = static_cast<int64_t>(ids.size());
    return args;
  }
  Status forward(Decoder::Forward args, const std::vector<int32_t>& ids) {
    return decoder.forward(with(args, ids), *cache);
  }
  std::vector<float> logits(const std::vector<int32_t>& ids, bool all = true) {
    std::vector<float> out((all ? ids.size() : 1) * static_cast<size_t>(decoder.shape().vocab), NAN);
    Decoder::Forward args;
    args.all_logits = all;
    args.logits = out.data();
    const Status status = forward(args, ids);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return out;
  }
  int32_t step(const std::vector<int32_t>& ids, const Sampling& sampling = Sampling()) {
    int32_t token = -1;
    const Status status = decoder.step(with({}, ids), sampling, *cache, &token);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return token;
  }
};

inline std::vector<float> device_in_pieces(DeviceDecoder& decoder, const std::vector<int32_t>& ids,
                                           const std::vector<size_t>& ends) {
  DeviceSession session(decoder);
  std::vector<float> all;
  size_t first = 0;
  for (const size_t end : ends) {
    const std::vector<float> part = session.logits(slice(ids, first, end));
    all.insert(all.end(), part.begin(), part.end());
    first = end;
  }
  return all;
}

// Largest difference as a part of the largest value; NaN counts as infinite.
template <class T>
double distance(const std::vector<float>& got, const std::vector<T>& expected) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    worst = std::max(worst, std::isnan(difference) ? static_cast<double>(INFINITY) : difference);
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
  }
  return worst / largest;
}

// Sizes that tensor cores take, none of them a whole tile.
inline LatentConfig even_latent() {
  LatentConfig latent = tiny_latent();
  latent.kv_rank = 22;
  return latent;
}

}  // namespace smoe::test
