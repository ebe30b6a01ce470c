// What the device decoder refuses, and what it leaves behind when something fails.
#include "device_decoder_support.h"

using namespace smoe;
using namespace smoe::test;
using smoe_test::emulate;

TEST_CASE("a refused call to the device decoder changes nothing (emulated)") {
  TinyOptions options;
  options.pattern = "m";
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  DeviceSession session(*decoder, 16);
  const std::vector<int32_t> ids = random_ids(12, model.vocab, 8);
  const std::vector<float> expected = DeviceSession(*decoder).logits(ids);
  session.logits(slice(ids, 0, 10));

  Decoder::Forward args;
  CHECK(session.forward(args, random_ids(7, model.vocab, 1)).code() == Code::ContextOverflow);
  CHECK(session.forward(args, {}).code() == Code::InvalidArgument);
  CHECK(session.forward(args, {1, 2, 61}).message() == "ids[2] must be in [0, 61), got 61");
  CHECK(session.forward(args, {-1}).code() == Code::TokenOutOfRange);
  double nll[1];
  args.nll = nll;
  CHECK(session.forward(args, {1}).code() == Code::InvalidArgument);
  const int32_t target = 61;
  args.targets = &target;
  CHECK(session.forward(args, {1}).code() == Code::TokenOutOfRange);
  CancelFlag flag;
  flag.set = true;
  args = {};
  args.cancel = &flag;
  CHECK(session.forward(args, {1}).code() == Code::Cancelled);
  int32_t token = 5;
  const std::vector<int32_t> one = {1};
  CHECK(decoder->step(DeviceSession::with(args, one), {}, *session.cache, &token).code() == Code::Cancelled);
  CHECK(token == -1);

  options.pattern = "mm";
  const std::unique_ptr<DeviceDecoder> two = upload(tiny(options));
  CHECK(two->forward(DeviceSession::with({}, one), *session.cache).code() == Code::InvalidArgument);
  options.pattern = "m";
  const std::unique_ptr<DeviceDecoder> elsewhere = upload(tiny(options), smoe_test::emulated_device(1));
  CHECK(elsewhere->forward(DeviceSession::with({}, one), *session.cache).code() == Code::InvalidArgument);

  CHECK(session.cache->length() == 10);
  const std::vector<float> rest = session.logits(slice(ids, 10, 12));
  CHECK(std::memcmp(rest.data(), &expected[10 * 61], rest.size() * sizeof(float)) == 0);
}

TEST_CASE("the device decoder refuses what does not agree or fit its kernels, by name (emulated)") {
  TinyOptions options;
  options.pattern = "md";
  ThreadPool pool(1);
  const auto refusal = [&](const Decoder& model) {
    std::unique_ptr<DeviceDecoder> made;
    Status status = DeviceDecoder::create(smoe_test::emulated_device(), model, pool, nullptr, &made);
    for (size_t i = 0; i < model.layers.size() && status.ok(); ++i)
      status = made->add_layer(model.layers[i], pool, nullptr);
    return status.message();
  };
  SUBCASE("ends") {
    Decoder model = tiny(options);
    model.vocab = 60;
    CHECK(refusal(model) == "embedding must be [60, 40], got [61, 40]");
  }
  SUBCASE("a layer") {
    Decoder model = tiny(options);
    std::swap(model.layers[1].attention_weights.k, model.layers[1].attention_weights.o);
    CHECK(refusal(model) == "layer 1 attention k must be [24, 40], got [40, 48]");
  }
  SUBCASE("odd ranks") {
    options.latent = tiny_latent();
    CHECK(refusal(tiny(options)) == "layer 0 kvRank must be a multiple of 2 on a CUDA device, got 21");
  }
  SUBCASE("no layers, momentum for another number of layers") {
    std::unique_ptr<DeviceDecoder> made;
    Decoder model = tiny(options);
    model.momentum = default_spec(MomentumType::HeavyBall);
    model.momentum.mu_layers = {0.5, 0.5};
    REQUIRE(DeviceDecoder::create(smoe_test::emulated_device(), model, pool, nullptr, &made).ok());
    const std::vector<int32_t> one = {1};
    CHECK(made->forward(DeviceSession::with({}, one), *made->make_cache(8)).code() == Code::InvalidArgument);
    for (const DecoderLayer& layer : model.layers) REQUIRE(made->add_layer(layer, pool, nullptr).ok());
    CHECK(made->forward(DeviceSession::with({}, one), *made->make_cache(8)).code() == Code::InvalidSpec);
  }
  SUBCASE("cancelled") {
    std::unique_ptr<DeviceDecoder> made;
    CancelFlag flag;
    flag.set = true;
    CHECK(DeviceDecoder::create(smoe_test::emulated_device(), tiny(options), pool, &flag, &made).code() ==
          Code::Cancelled);
    CHECK(made == nullptr);
  }
}

TEST_CASE("layers may be added between calls, and lose their CPU weights (emulated)") {
  TinyOptions options;
  options.pattern = "md";
  Decoder model = tiny(options);
  const std::vector<int32_t> ids = random_ids(5, model.vocab, 3);
  const std::vector<float> expected = Session(model).logits(ids);
  ThreadPool pool(1);
  std::unique_ptr<DeviceDecoder> made;
  REQUIRE(DeviceDecoder::create(smoe_test::emulated_device(), model, pool, nullptr, &made).ok());
  const size_t ends = made->bytes();
  REQUIRE(made->add_layer(model.layers[0], pool, nullptr).ok());
  model.layers[0] = DecoderLayer();
  DeviceSession(*made).step({1, 2});
  REQUIRE(made->add_layer(model.layers[1], pool, nullptr).ok());
  model = Decoder();
  CHECK(made->bytes() > ends);
  CHECK(distance(DeviceSession(*made).logits(ids), expected) <= kExactTolerance);
}

TEST_CASE("a full device: OutOfMemory, nothing is lost, and it goes on when there is room (emulated)") {
  TinyOptions options;
  options.pattern = "d";
  const Decoder model = tiny(options);
  const std::shared_ptr<Device> device = smoe_test::emulated_device(2);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model, device);
  const std::vector<int32_t> ids = random_ids(70, model.vocab, 4);
  const std::vector<float> whole = DeviceSession(*decoder).logits(slice(ids, 0, 64));
  DeviceSession session(*decoder);
  session.logits(slice(ids, 0, 60));
  const size_t bytes = session.cache->bytes();
  CHECK(bytes == 64 * 2 * 24 * sizeof(float));
  device->trim();
  emulate("memory", 0);
  CHECK(session.cache->reserve(128).code() == Code::OutOfMemory);
  CHECK(session.forward({}, slice(ids, 60, 70)).code() == Code::OutOfMemory);
  CHECK(session.cache->length() == 60);
  CHECK(session.cache->bytes() == bytes);
  emulate("none");
  const std::vector<float> rest = session.logits(slice(ids, 60, 64));
  CHECK(same_bits(rest, std::vector<float>(whole.end() - 4 * 61, whole.end())));
  REQUIRE(session.forward({}, slice(ids, 64, 70)).ok());
  CHECK(session.cache->bytes() == 2 * bytes);
  session.cache->truncate(60);
  CHECK(same_bits(session.logits(slice(ids, 60, 64)), rest));
}

TEST_CASE("a lost device: DeviceLost in this call and in all later ones; the process goes on (emulated)") {
  TinyOptions options;
  options.pattern = "m";
  const Decoder model = tiny(options);
  const std::vector<int32_t> ids = random_ids(20, model.vocab, 4);
  for (const bool waiting : {false, true}) {
    const std::unique_ptr<DeviceDecoder> decoder = upload(model, smoe_test::emulated_device(waiting ? 6 : 7));
    decoder->set_chunk_tokens(4);
    DeviceSession session(*decoder);
    session.step({ids[0]});
    session.step({ids[1]});
    CHECK(decoder->graphs() == 1);
    emulate(waiting ? "synchronize" : "launch", waiting ? 0 : 20);  // 20: in the second chunk
    CHECK(session.forward({}, slice(ids, 2, 20)).code() == Code::DeviceLost);
    CHECK(session.cache->length() == 2);
    int32_t token = 0;
    const std::vector<int32_t> one = {1};
    CHECK(decoder->step(DeviceSession::with({}, one), {}, *session.cache, &token).code() == Code::DeviceLost);
    CHECK(session.cache->length() == 2);
    std::unique_ptr<DeviceDecoder> made;
    ThreadPool pool(1);
    CHECK(DeviceDecoder::create(decoder->device(), model, pool, nullptr, &made).code() == Code::DeviceLost);
  }
  emulate("none");
  const std::unique_ptr<DeviceDecoder> alive = upload(model);
  CHECK(distance(DeviceSession(*alive).logits(ids), Session(model).logits(ids)) <= kExactTolerance);
}
