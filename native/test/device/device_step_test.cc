// Steps of the device decoder: drawn tokens, graphs, caches that come and go.
#include "decoder/device_graph.h"
#include "decoder/sampler.h"
#include "device_decoder_support.h"

using namespace smoe;
using namespace smoe::test;

namespace {

// The bits of the token's logits after the cache was filled in two ways.
std::vector<float> next_logits(DeviceSession& session, int32_t id) { return session.logits({id}); }

std::vector<int32_t> greedy_on_cpu(const Decoder& model, std::vector<int32_t> ids, int count, int first) {
  Session session(model);
  std::vector<int32_t> tokens;
  ids.resize(static_cast<size_t>(first));
  for (int i = 0; i < count; ++i) {
    const std::vector<float> logits = session.logits(ids);
    const size_t v = static_cast<size_t>(model.vocab);
    ids = {argmax(logits.data() + logits.size() - v, model.vocab)};
    tokens.push_back(ids[0]);
  }
  return tokens;
}

}  // namespace

TEST_CASE("greedy steps choose the CPU's tokens, replayed from a graph after the first (emulated)") {
  TinyOptions options;
  options.pattern = "md";
  options.shared = true;
  SUBCASE("ordinary attention, momentum") { options.momentum = default_spec(MomentumType::Adam); }
  SUBCASE("latent attention") { options.latent = even_latent(); }
  SUBCASE("sinks and a window") {
    options.sinks = options.biases = true;
    options.window = 4;
    options.activation = tiny_clamped();
  }
  SUBCASE("the emulation's other schedule") { smoe_test::emulate("schedule", 1); }
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<int32_t> prompt = random_ids(7, model.vocab, 11);
  const std::vector<int32_t> expected = greedy_on_cpu(model, prompt, 10, 7);
  DeviceSession session(*decoder);
  std::vector<int32_t> tokens = {session.step(prompt)};
  CHECK(decoder->graphs() == 0);
  for (int i = 1; i < 10; ++i) {
    tokens.push_back(session.step({tokens.back()}));
    CHECK(decoder->graphs() == (i < 2 ? 0 : 1));
  }
  CHECK(tokens == expected);
  CHECK(session.cache->length() == 16);
  smoe_test::emulate("schedule", 0);
}

TEST_CASE("where a capture is refused the launches go on as they are (emulated)") {
  const std::shared_ptr<Device> device = smoe_test::emulated_device();
  const auto guard = device->lock();
  DeviceBuffer memory;
  REQUIRE(device->allocate(4, &memory).ok());
  int runs = 0;
  DeviceGraph waits, fills;
  for (int call = 0; call < 4; ++call) {
    const Status status = waits.run(device, [&] {
      ++runs;
      SMOE_RETURN_IF_ERROR(device->fill(memory.data(), call, 4));
      return device->synchronize();  // no graph can hold that
    });
    REQUIRE_MESSAGE(status.ok(), status.message());
    unsigned char bytes[4] = {};
    REQUIRE(device->copy_out(bytes, memory.data(), 4).ok());
    CHECK(bytes[3] == call);
  }
  CHECK_FALSE(waits.captured());
  CHECK(runs == 5);  // and the one that was refused
  runs = 0;
  for (int call = 0; call < 4; ++call) {
    REQUIRE(fills.run(device, [&] { return ++runs, device->fill(memory.data(), 7, 4); }).ok());
    CHECK(fills.captured() == (call > 0));
  }
  CHECK(runs == 2);
  fills.drop();
  CHECK_FALSE(fills.captured());
}

TEST_CASE("a replayed graph leaves the bits of plain launches, in every cache and past the end of a page (emulated)") {
  TinyOptions options;
  options.pattern = "m";
  options.precision = Precision::Fast;
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<int32_t> ids = random_ids(70, model.vocab, 12);
  DeviceSession plain(*decoder), replayed(*decoder), other(*decoder);
  REQUIRE(plain.forward({}, slice(ids, 0, 62)).ok());
  REQUIRE(replayed.forward({}, slice(ids, 0, 62)).ok());
  REQUIRE(other.forward({}, slice(ids, 0, 30)).ok());
  for (size_t at = 62; at < 68; ++at) {
    const std::vector<float> logits = plain.logits({ids[at]});
    CHECK(replayed.step({ids[at]}) == argmax(logits.data(), model.vocab));
    if (at == 64) other.step({ids[1]});  // another cache's pages in between
  }
  CHECK(decoder->graphs() == 1);
  CHECK(same_bits(next_logits(replayed, ids[68]), next_logits(plain, ids[68])));
  // Two tokens at once have a graph of their own.
  plain.cache->truncate(60);
  replayed.cache->truncate(60);
  const std::vector<float> pair = plain.logits(slice(ids, 60, 62));
  for (int i = 0; i < 3; ++i) {
    replayed.cache->truncate(60);
    CHECK(replayed.step(slice(ids, 60, 62)) == argmax(pair.data() + model.vocab, model.vocab));
  }
  CHECK(decoder->graphs() == 2);
  CHECK(same_bits(next_logits(replayed, ids[68]), next_logits(plain, ids[68])));
}

TEST_CASE("drawn tokens are those of the CPU's sampler for the same logits (emulated)") {
  TinyOptions options;
  options.pattern = "d";
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<int32_t> ids = random_ids(5, model.vocab, 13);
  const std::vector<float> logits = DeviceSession(*decoder).logits(ids, false);
  DeviceSession session(*decoder);
  Sampler sampler;
  std::vector<int32_t> seen;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const Sampling sampling{0.5f + 0.25f * static_cast<float>(seed % 4), seed % 3 == 0 ? 0.8f : 1.0f,
                            seed % 2 == 0 ? 7 : 0, seed};
    session.cache->truncate(0);
    const int32_t token = session.step(ids, sampling);
    CHECK(token == sampler.sample(logits.data(), model.vocab, sampling, 5));
    seen.push_back(token);
  }
  std::sort(seen.begin(), seen.end());
  CHECK(std::unique(seen.begin(), seen.end()) - seen.begin() > 3);  // it does draw
  CHECK(decoder->graphs() == 1);
}

TEST_CASE("steps count experts as forward does, with graphs and without (emulated)") {
  TinyOptions options;
  options.pattern = "mm";
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<int32_t> ids = random_ids(6, model.vocab, 14);
  std::vector<uint64_t> expected(10, 0), counts(10, 0);
  Decoder::Forward args;
  args.expert_counts = expected.data();
  Session host(model);
  REQUIRE(host.forward(args, slice(ids, 0, 4)).ok());
  DeviceSession session(*decoder);
  int32_t token = -1;
  for (size_t at = 0; at < ids.size(); ++at) {
    args.expert_counts = at < 4 ? counts.data() : nullptr;  // those of later calls are not asked for
    const std::vector<int32_t> id = {ids[at]};
    REQUIRE(decoder->step(DeviceSession::with(args, id), Sampling(), *session.cache, &token).ok());
  }
  CHECK(counts == expected);
  args.expert_counts = counts.data();
  REQUIRE(session.forward(args, {ids[0]}).ok());
  uint64_t total = 0;
  for (const uint64_t count : counts) total += count;
  CHECK(total == 5 * 2 * 2);
}

TEST_CASE("a step with logits and a long prompt gives both (emulated)") {
  TinyOptions options;
  options.pattern = "m";
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  decoder->set_chunk_tokens(10);
  const std::vector<int32_t> ids = random_ids(25, model.vocab, 15);
  const std::vector<float> expected = DeviceSession(*decoder).logits(ids);
  std::vector<float> logits(expected.size(), NAN);
  DeviceSession session(*decoder);
  Decoder::Forward args;
  args.logits = logits.data();
  args.all_logits = true;
  int32_t token = -1;
  REQUIRE(decoder->step(DeviceSession::with(args, ids), Sampling(), *session.cache, &token).ok());
  CHECK(same_bits(logits, expected));
  CHECK(token == argmax(logits.data() + 24 * model.vocab, model.vocab));
  session.cache->truncate(0);
  CHECK(session.step(ids) == token);
}

TEST_CASE("nothing to choose from: -1, and the cache is as it was (emulated)") {
  TinyOptions options;
  options.pattern = "d";
  Decoder model = tiny(options);
  for (float& weight : model.final_norm.weight) weight = NAN;
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  DeviceSession session(*decoder);
  REQUIRE(session.forward({}, {1, 2}).ok());
  CHECK(session.step({3}) == -1);
  CHECK(session.cache->length() == 2);
}
