// The decoder on the emulated device against double precision and against the CPU.
#include "device_decoder_support.h"
#include "formats/rtn.h"

using namespace smoe;
using namespace smoe::test;

namespace {

// Exact precision is that of f32 in both backends: the tolerance is the CPU's.
void check_model(const Decoder& model, unsigned seed, size_t tokens = 12) {
  const Status status = model.validate();
  REQUIRE_MESSAGE(status.ok(), status.message());
  const std::vector<int32_t> ids = random_ids(tokens, model.vocab, seed);
  const reference::Pass expected = reference::decoder(model, ids);
  REQUIRE(expected.router_margin > 1e-4);  // a closer tie may fall either way: choose another seed
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  CHECK(distance(DeviceSession(*decoder).logits(ids), expected.logits) <= kExactTolerance);
}

void check_device(const TinyOptions& options, size_t tokens = 12) {
  check_model(tiny(options), options.seed + 100, tokens);
}

void quantize_to(WeightFormat format, PackedMatrix* matrix) {
  std::vector<float> values(static_cast<size_t>(matrix->rows * matrix->cols));
  for (int64_t row = 0; row < matrix->rows; ++row) unpack_row(*matrix, row, values.data() + row * matrix->cols);
  QuantizedMatrix codes;
  const MatrixSource source{values.data(), Dtype::F32, matrix->rows, matrix->cols};
  REQUIRE(quantize_rtn(source, format, matrix->cols, false, &codes).ok());
  REQUIRE(pack_quantized(codes, matrix).ok());
}
void quantize_expert_to(WeightFormat format, ExpertWeights* expert) {
  for (PackedMatrix* matrix : {&expert->gate, &expert->up, &expert->down}) quantize_to(format, matrix);
}

}  // namespace

TEST_CASE("device decoder equals the double-precision reference (emulated)") {
  TinyOptions options;
  options.pattern = "md";
  SUBCASE("grouped-query attention, dense and MoE layers") {}
  SUBCASE("f32 weights, one KV head, whole head rotated") {
    options.format = WeightFormat::F32;
    options.kv_heads = 1;
    options.rotary_half = 6;
  }
  SUBCASE("no rotation, multi-head attention, tied embedding") {
    options.rotary_half = 0;
    options.kv_heads = 4;
    options.tied = true;
  }
  SUBCASE("qk norm per head, sliding window") {
    options.qk_norm = QkNorm::PerHead;
    options.window = 5;
  }
  SUBCASE("qk norm over all heads, with clip") {
    options.qk_norm = QkNorm::Full;
    options.clip = 0.8f;
  }
  SUBCASE("biases, layer norm, shared expert") {
    options.biases = options.shared = true;
    options.norm = NormKind::Layer;
  }
  SUBCASE("sinks, biases, window, clamped units") {
    options.sinks = options.biases = true;
    options.window = 5;
    options.activation = tiny_clamped();
  }
  SUBCASE("dense only") { options.pattern = "d"; }
  check_device(options);
}

TEST_CASE("device decoder with latent attention equals the reference (emulated)") {
  TinyOptions options;
  options.pattern = "dm";
  options.latent = even_latent();
  SUBCASE("queries through a bottleneck") {}
  SUBCASE("queries straight from the hidden state, one head") {
    options.latent.q_rank = 0;
    options.latent.v_dim = 12;
    options.heads = 1;
  }
  SUBCASE("pairs half a part apart, biases, f32 weights") {
    options.latent.interleaved = false;
    options.biases = true;
    options.format = WeightFormat::F32;
  }
  SUBCASE("no rotation, window") {
    options.latent.rope_dim = 0;
    options.window = 5;
  }
  check_device(options);
}

TEST_CASE("every momentum type on the device equals the reference, dense layers between (emulated)") {
  for (const MomentumSpec& spec : every_momentum()) {
    CAPTURE(static_cast<int>(spec.type));
    TinyOptions options;
    options.momentum = spec;
    options.pattern = spec.mu_layers.empty() ? "dmdmm" : "dmdmd";
    options.seed = 7;
    check_device(options, 6);
  }
}

TEST_CASE("more rows than the few: prompts equal the reference too (emulated)") {
  TinyOptions options;
  options.pattern = "md";
  options.shared = true;
  SUBCASE("ordinary attention with sinks and a window") {
    options.sinks = options.biases = true;
    options.window = 60;
  }
  SUBCASE("latent attention") { options.latent = even_latent(); }
  SUBCASE("momentum with look-ahead") {
    options.pattern = "mdm";
    options.momentum = default_spec(MomentumType::Nesterov);
  }
  check_device(options, 66);
}

TEST_CASE("fast precision on the device is as near to double as on the CPU (emulated)") {
  TinyOptions options;
  options.precision = Precision::Fast;
  options.pattern = "mdm";
  SUBCASE("ordinary attention") {}
  SUBCASE("latent attention") { options.latent = even_latent(); }
  const Decoder model = tiny(options);
  const std::vector<int32_t> ids = random_ids(20, model.vocab, 3);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<float> cpu = Session(model).logits(ids), got = DeviceSession(*decoder).logits(ids);
  // As in decoder_test.cc, with the middle of the differences because a routing near a tie may flip: two backends that
  // both round to bf16 are within 2 % of the logits' scale.
  std::vector<double> difference;
  double square = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    REQUIRE_FALSE(std::isnan(got[i]));
    difference.push_back(std::fabs(static_cast<double>(got[i]) - static_cast<double>(cpu[i])));
    square += static_cast<double>(cpu[i]) * static_cast<double>(cpu[i]);
  }
  std::nth_element(difference.begin(), difference.begin() + difference.size() / 2, difference.end());
  CHECK(difference[difference.size() / 2] < 0.02 * std::sqrt(square / static_cast<double>(got.size())));
}

TEST_CASE("calls of few tokens: in pieces, at once, cut into chunks: the same bits (emulated)") {
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    TinyOptions options;
    options.precision = precision;
    options.pattern = "md";
    options.shared = true;
    options.momentum = default_spec(MomentumType::HeavyBall);
    if (precision == Precision::Fast) options.latent = even_latent();
    const Decoder model = tiny(options);
    const std::unique_ptr<DeviceDecoder> decoder = upload(model);
    const RouterConfig& router = model.layers[0].moe->config.router;
    const bool fast = precision == Precision::Fast;
    const size_t few = fast ? static_cast<size_t>(DeviceMoeLayer::few_rows(router.experts, router.k)) : 40;
    REQUIRE((few > 9 && few <= 40));
    const std::vector<int32_t> ids = random_ids(few, model.vocab, 5);
    const std::vector<float> whole = DeviceSession(*decoder).logits(ids);
    CHECK(same_bits(whole, device_in_pieces(*decoder, ids, {1, 2, 9, few})));
    decoder->set_chunk_tokens(9);
    CHECK(same_bits(whole, device_in_pieces(*decoder, ids, {few})));
    // Of so many that experts get eight each, and no more than 64.
    decoder->set_chunk_tokens(0);
    const std::vector<int32_t> more = random_ids(64, model.vocab, 6);
    const std::vector<float> at_once = DeviceSession(*decoder).logits(more);
    CHECK(same_bits(at_once, device_in_pieces(*decoder, more, {30, 64})));
  }
}

TEST_CASE("calls of many tokens: the same bits however they are cut; few and many agree within rounding (emulated)") {
  TinyOptions options;
  options.pattern = "m";
  SUBCASE("exact") { options.shared = true; }
  SUBCASE("fast, with a window and sinks") {
    options.precision = Precision::Fast;
    options.window = 40;
    options.sinks = true;
  }
  SUBCASE("fast, latent") {
    options.precision = Precision::Fast;
    options.latent = even_latent();
  }
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<int32_t> ids = random_ids(134, model.vocab, 5);
  const std::vector<float> whole = DeviceSession(*decoder).logits(ids);
  CHECK(same_bits(whole, device_in_pieces(*decoder, ids, {66, 134})));
  decoder->set_chunk_tokens(70);
  CHECK(same_bits(whole, device_in_pieces(*decoder, ids, {134})));
  if (options.precision == Precision::Fast) return;
  // A prompt, then steps.
  decoder->set_chunk_tokens(0);
  CHECK(distance(device_in_pieces(*decoder, ids, {131, 132, 134}), whole) <= kExactTolerance);
}

TEST_CASE("device: last logits, likelihoods, traces and counts agree with all logits and with the CPU (emulated)") {
  TinyOptions options;
  options.momentum = default_spec(MomentumType::Complex);
  options.pattern = "mdm";
  const Decoder model = tiny(options);
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  size_t n = 20;
  SUBCASE("few tokens") {}
  SUBCASE("many tokens") { n = 66; }
  const size_t v = static_cast<size_t>(model.vocab);
  const std::vector<int32_t> ids = random_ids(n, model.vocab, 6), targets = random_ids(n, model.vocab, 7);
  const std::vector<float> all = DeviceSession(*decoder).logits(ids);

  struct Wanted {
    std::vector<float> last;
    std::vector<double> nll;
    std::vector<LayerTrace> traces;
    std::vector<uint64_t> counts;
  };
  const auto run = [&](auto&& forward) {
    Wanted wanted;
    wanted.last.assign(v, NAN);
    wanted.nll.assign(n, static_cast<double>(NAN));
    wanted.counts.assign(static_cast<size_t>(model.moe_layers() * model.max_experts()), 100);
    Decoder::Forward args;
    args.logits = wanted.last.data();
    args.nll = wanted.nll.data();
    args.targets = targets.data();
    args.trace = &wanted.traces;
    args.expert_counts = wanted.counts.data();
    REQUIRE(forward(args).ok());
    return wanted;
  };
  DeviceSession session(*decoder);
  const Wanted got = run([&](const Decoder::Forward& args) { return session.forward(args, ids); });
  Session host(model);
  const Wanted cpu = run([&](const Decoder::Forward& args) { return host.forward(args, ids); });

  CHECK(std::memcmp(got.last.data(), &all[(n - 1) * v], v * sizeof(float)) == 0);
  CHECK(got.counts == cpu.counts);
  double worst = 0;
  for (size_t t = 0; t < n; ++t) worst = std::max(worst, std::fabs(got.nll[t] - cpu.nll[t]));
  CHECK(worst < 1e-4);
  REQUIRE(got.traces.size() == cpu.traces.size());
  for (size_t layer = 0; layer < got.traces.size(); ++layer) {
    const LayerTrace &a = got.traces[layer], &b = cpu.traces[layer];
    CHECK(a.layer == b.layer);
    CHECK(a.ids == b.ids);
    CHECK(a.count == b.count);
    CHECK(distance(a.input, b.input) < kExactTolerance);
    CHECK(distance(a.residual_in, b.residual_in) < kExactTolerance);
    CHECK(distance(a.router_logits, b.router_logits) < kExactTolerance);
    CHECK(distance(a.weights, b.weights) < kExactTolerance);
    CHECK(distance(a.output, b.output) < kExactTolerance);
    CHECK(distance(a.residual_out, b.residual_out) < kExactTolerance);
    CHECK(distance(a.momentum_out, b.momentum_out) < kExactTolerance);
  }
  DeviceSession prefill(*decoder);  // no logits wanted: only the cache is filled
  REQUIRE(prefill.forward({}, slice(ids, 0, n - 1)).ok());
  CHECK(distance(prefill.logits({ids[n - 1]}), got.last) < (n > 64 ? kExactTolerance : 1e-30));
}

TEST_CASE("quantized weights on the device equal the reference over what they decode to (emulated)") {
  TinyOptions options;
  options.pattern = "md";
  options.shared = true;
  WeightFormat format = WeightFormat::W8;
  SUBCASE("w8") {}
  SUBCASE("w4") { format = WeightFormat::W4; }
  SUBCASE("f8, latent attention") {
    format = WeightFormat::F8;
    options.latent = even_latent();
  }
  Decoder model = tiny(options);
  const auto quantize = [&](PackedMatrix* matrix) { quantize_to(format, matrix); };
  const auto quantize_expert = [&](ExpertWeights* expert) { quantize_expert_to(format, expert); };
  quantize(&model.embedding);
  quantize(&model.output);
  for (DecoderLayer& layer : model.layers) {
    AttentionWeights& own = layer.attention_weights;
    LatentWeights& latent = layer.latent_weights;
    for (PackedMatrix* matrix : {&own.q, &own.k, &own.v, &own.o, &latent.q_a, &latent.q_b, &latent.kv_a, &latent.o})
      if (!matrix->empty()) quantize(matrix);
    for (PackedMatrix& head : latent.key_up) quantize(&head);
    for (PackedMatrix& head : latent.value_up) quantize(&head);
    if (layer.dense != nullptr) quantize_expert(layer.dense.get());
    if (layer.moe == nullptr) continue;
    for (ExpertWeights& expert : layer.moe->experts) quantize_expert(&expert);
    quantize_expert(&layer.moe->shared[0]);
  }
  check_model(model, 5);
}

TEST_CASE(
    "bit-nested experts: bits per layer and expert, of calls and of steps from a graph, as on the CPU (emulated)") {
  TinyOptions options;
  options.pattern = "mdm";
  Decoder model = tiny(options);
  for (DecoderLayer& layer : model.layers) {
    if (layer.moe == nullptr) continue;
    for (ExpertWeights& expert : layer.moe->experts) quantize_expert_to(WeightFormat::WN, &expert);
  }
  const std::unique_ptr<DeviceDecoder> decoder = upload(model);
  const std::vector<int32_t> ids = random_ids(9, model.vocab, 6);
  const std::vector<uint8_t> low(10, 2), mixed = {2, 3, 4, 2, 8, 3, 3, 2, 4, 8};
  // All logits; without `bits` at all planes.
  const auto logits = [&](auto& session, const std::vector<uint8_t>* bits) {
    std::vector<float> out(ids.size() * static_cast<size_t>(model.vocab), NAN);
    Decoder::Forward args;
    args.all_logits = true;
    args.logits = out.data();
    if (bits != nullptr) args.expert_bits = bits->data();
    const Status status = session.forward(args, ids);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return out;
  };
  const auto on_device = [&](const std::vector<uint8_t>* bits) {
    DeviceSession session(*decoder);
    return logits(session, bits);
  };
  const auto on_cpu = [&](const std::vector<uint8_t>* bits) {
    Session session(model);
    return logits(session, bits);
  };
  const std::vector<float> all = on_device(nullptr);
  CHECK(distance(all, on_cpu(nullptr)) <= kExactTolerance);
  CHECK(distance(on_device(&mixed), on_cpu(&mixed)) <= kExactTolerance);
  CHECK(distance(on_device(&low), on_cpu(&low)) <= kExactTolerance);
  CHECK(distance(on_device(&low), all) > 100 * kExactTolerance);
  CHECK(same_bits(on_device(nullptr), all));

  // One graph serves calls at all bits and at fewer.
  const auto steps = [&](const std::vector<uint8_t>& bits, int count) {
    DeviceSession session(*decoder);
    std::vector<int32_t> tokens = {session.step({1, 2, 3})};
    for (int i = 0; i < count; ++i) {
      const std::vector<int32_t> one = {tokens.back()};
      Decoder::Forward args;
      args.expert_bits = bits.data();
      int32_t token = -1;
      REQUIRE(decoder->step(DeviceSession::with(args, one), {}, *session.cache, &token).ok());
      tokens.push_back(token);
    }
    return tokens;
  };
  const std::vector<uint8_t> whole(10, 8);
  const std::vector<int32_t> before = steps(low, 4), after = steps(whole, 4);
  CHECK(decoder->graphs() > 0);
  CHECK(steps(low, 4) == before);
  CHECK(steps(whole, 4) == after);
  CHECK(before != after);
}
