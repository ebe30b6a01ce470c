// Whole decoders with latent attention, sinks and bounded activations.
#include <doctest/doctest.h>

#include "decoder_support.h"

using namespace smoe;
using namespace smoe::test;

TEST_CASE("decoder with latent attention or sinks equals the double-precision reference") {
  TinyOptions options;
  SUBCASE("sinks, with and without a window, biases, clamped units") {
    options.sinks = options.biases = true;
    options.activation = tiny_clamped();
    SUBCASE("all keys") {}
    SUBCASE("window") { options.window = 5; }
  }
  SUBCASE("latent attention") {
    options.latent = tiny_latent();
    SUBCASE("queries through a bottleneck") {}
    SUBCASE("queries straight from the hidden state, one head") {
      options.latent.q_rank = 0;
      options.heads = 1;
    }
    SUBCASE("pairs half a part apart, biases, f32 weights") {
      options.latent.interleaved = false;
      options.biases = true;
      options.format = WeightFormat::F32;
    }
    SUBCASE("no rotation") { options.latent.rope_dim = 0; }
    SUBCASE("window") { options.window = 5; }
    SUBCASE("under momentum, dense layers between") {
      options.momentum = default_spec(MomentumType::Nesterov);
      options.pattern = "dmdmm";
    }
  }
  check_against_reference(options, kExactTolerance);
}

TEST_CASE("latent attention, and sinks with a window: the same bits in pieces and at once") {
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    for (const bool latent : {true, false}) {
      TinyOptions options;
      options.precision = precision;
      options.momentum = default_spec(MomentumType::HeavyBall);
      options.sinks = !latent;
      options.window = latent ? 0 : 9;
      options.activation = tiny_clamped();
      if (latent) options.latent = tiny_latent();
      const Decoder model = tiny(options);
      REQUIRE(model.validate().ok());
      const std::vector<int32_t> ids = random_ids(150, model.vocab, 5);
      const std::vector<float> whole = Session(model).logits(ids);
      std::vector<size_t> each(ids.size());
      for (size_t i = 0; i < each.size(); ++i) each[i] = i + 1;
      CHECK(same_bits(whole, in_pieces(model, ids, each, 1)));
      CHECK(same_bits(whole, in_pieces(model, ids, {1, 70, 150}, 2)));
      Session poisoned(model);
      REQUIRE(poisoned.workspace.reserve(1 << 20).ok());
      std::memset(poisoned.workspace.take<char>(1 << 20), 0xff, 1 << 20);  // NaN
      CHECK(same_bits(whole, poisoned.logits(ids)));
    }
  }
  TinyOptions options;
  options.latent = tiny_latent();
  const Decoder model = tiny(options);
  KvCache cache = model.make_cache(256);
  REQUIRE(cache.reserve(1).ok());
  CHECK(cache.bytes() == sizeof(float) * 3 * 256 * (21 + 6));  // one latent and one rotated part, whatever the heads
}

TEST_CASE("validate names what is wrong with latent attention, sinks and activations") {
  TinyOptions options;
  options.latent = tiny_latent();
  Decoder model = tiny(options);
  LatentWeights& latent = model.layers[1].latent_weights;
  const auto message = [&] { return model.validate().message(); };
  SUBCASE("bottleneck") {
    latent.q_norm.pop_back();
    CHECK(message() == "layer 1 attention q norm must be [18], got [17]");
  }
  SUBCASE("a head") {
    std::swap(latent.key_up[2], latent.value_up[2]);
    CHECK(message() == "layer 1 attention head 2 keys must be [21, 10], got [9, 21]");
  }
  SUBCASE("number of heads") {
    latent.key_up.pop_back();
    CHECK(message() == "layer 1 attention must have 4 heads, got 3 keys and 4 values");
  }
  SUBCASE("rotated part") {
    model.layers[1].attention.inv_freq.pop_back();
    CHECK(message() == "layer 1 attention has 6 rotated dimensions, but 2 frequencies");
    model.layers[1].attention.latent.rope_dim = 2 * kMaxRopeDim;
    CHECK(message().find("layer 1 attention needs positive heads") == 0);
  }
  SUBCASE("another rank than layer 0") {
    model.layers[1].attention.latent.kv_rank = 20;
    CHECK(message() == "layer 1 attention caches 1 heads of 26 + 0, but layer 0 1 of 27 + 0");
  }
  SUBCASE("limit") {
    model.layers[1].dense_activation.limit = 0;
    CHECK(message().find("layer 1 dense feed-forward activation needs") == 0);
    model.layers[1].dense_activation = Activation::Relu;
    model.layers[1].dense_activation.alpha = 2;
    CHECK(message() == "layer 1 dense feed-forward activation: alpha belongs to silu alone");
  }
  SUBCASE("sinks") {
    options.latent = LatentConfig();
    options.sinks = true;
    model = tiny(options);
    model.layers[2].attention_weights.sinks.pop_back();
    CHECK(message() == "layer 2 attention sinks must be [4], got [3]");
  }
}
