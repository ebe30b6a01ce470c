#include "decoder/decoder.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "decoder_support.h"

using namespace smoe;
using namespace smoe::test;

TEST_CASE("decoder equals the double-precision reference") {
  TinyOptions options;
  SUBCASE("grouped-query attention, dense and MoE layers") {}
  SUBCASE("f32 weights") { options.format = WeightFormat::F32; }
  SUBCASE("multi-head attention") { options.kv_heads = 4; }
  SUBCASE("one KV head, whole head rotated") {
    options.kv_heads = 1;
    options.rotary_half = 6;
  }
  SUBCASE("no rotation") { options.rotary_half = 0; }
  SUBCASE("qk norm per head") { options.qk_norm = QkNorm::PerHead; }
  SUBCASE("qk norm over all heads, with clip") {
    options.qk_norm = QkNorm::Full;
    options.clip = 0.8f;
  }
  SUBCASE("biases, layer norm, shared expert") {
    options.biases = options.shared = true;
    options.norm = NormKind::Layer;
  }
  SUBCASE("sliding window") { options.window = 5; }
  SUBCASE("tied embedding") { options.tied = true; }
  SUBCASE("dense only") { options.pattern = "dd"; }
  check_against_reference(options, kExactTolerance);
}

TEST_CASE("every momentum type equals the reference, dense layers between") {
  int index = 0;
  for (const MomentumSpec& spec : every_momentum()) {
    CAPTURE(index++);
    TinyOptions options;
    options.momentum = spec;
    options.pattern = spec.mu_layers.empty() ? "dmdmm" : "dmdmd";
    options.seed = 7;
    check_against_reference(options, kExactTolerance);
  }
}

TEST_CASE("fast precision stays near the exact one") {
  TinyOptions options;
  const std::vector<int32_t> ids = random_ids(40, 61, 3);
  const std::vector<float> exact = Session(tiny(options)).logits(ids);
  options.precision = Precision::Fast;
  const Decoder model = tiny(options);
  const std::vector<float> fast = Session(model).logits(ids);
  // bf16 rounds activations by up to 2^-9; a dozen independent roundings deep that is under 1 % of the logits' scale.
  // A token whose routing flips at a near tie differs by more, so the middle of all differences is looked at.
  std::vector<float> difference(exact.size());
  double square = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference[i] = std::fabs(exact[i] - fast[i]);
    square += double{exact[i]} * exact[i];
  }
  std::nth_element(difference.begin(), difference.begin() + difference.size() / 2, difference.end());
  CHECK(difference[difference.size() / 2] < 0.02 * std::sqrt(square / exact.size()));
  CHECK_FALSE(same_bits(exact, fast));
}

TEST_CASE("token by token, in pieces and at once: the same bits, on one thread and on two") {
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    for (const MomentumSpec& spec : every_momentum()) {
      TinyOptions options;
      options.precision = precision;
      options.momentum = spec;
      options.window = spec.type == MomentumType::Robust ? 9 : 0;
      options.shared = true;
      const Decoder model = tiny(options);
      const std::vector<int32_t> ids = random_ids(37, model.vocab, 5);
      const std::vector<float> whole = Session(model).logits(ids);
      std::vector<size_t> each(ids.size());
      for (size_t i = 0; i < each.size(); ++i) each[i] = i + 1;
      CHECK(same_bits(whole, in_pieces(model, ids, each, 1)));
      CHECK(same_bits(whole, in_pieces(model, ids, {16, 17, 37}, 2)));
      CHECK(same_bits(whole, in_pieces(model, ids, {37}, 2)));
    }
  }
}

TEST_CASE("a prompt longer than a chunk has the bits of its pieces") {
  TinyOptions options;
  options.precision = Precision::Fast;
  SUBCASE("multi-head attention") {}
  SUBCASE("latent attention") { options.latent = tiny_latent(); }
  options.pattern = "mm";
  options.momentum = default_spec(MomentumType::HeavyBall);
  const Decoder model = tiny(options);
  const std::vector<int32_t> ids = random_ids(700, model.vocab, 5);
  const std::vector<float> whole = in_pieces(model, ids, {700}, 2);
  CHECK(same_bits(whole, in_pieces(model, ids, {1, 300, 699, 700}, 1)));
}

TEST_CASE("what lay in the workspace does not matter") {
  for (const MomentumSpec& spec : every_momentum()) {
    TinyOptions options;
    options.momentum = spec;
    const Decoder model = tiny(options);
    const std::vector<int32_t> ids = random_ids(9, model.vocab, 5);
    const std::vector<float> clean = Session(model).logits(ids);
    Session poisoned(model);
    for (Workspace* workspace : {&poisoned.workspace, &poisoned.workspace.nested()}) {
      REQUIRE(workspace->reserve(1 << 20).ok());
      std::memset(workspace->take<char>(1 << 20), 0xff, 1 << 20);  // NaN
    }
    CHECK(same_bits(clean, poisoned.logits(ids)));
  }
}

TEST_CASE("last logits, likelihoods, traces and counts agree with all logits") {
  TinyOptions options;
  options.momentum = default_spec(MomentumType::Complex);
  options.pattern = "mdm";
  const Decoder model = tiny(options);
  const size_t n = 530, v = static_cast<size_t>(model.vocab), h = static_cast<size_t>(model.hidden);
  const std::vector<int32_t> ids = random_ids(n, model.vocab, 6), targets = random_ids(n, model.vocab, 7);
  const std::vector<float> all = Session(model).logits(ids);

  std::vector<float> last(v, NAN);
  std::vector<double> nll(n, NAN);
  std::vector<LayerTrace> traces;
  std::vector<uint64_t> counts(static_cast<size_t>(model.moe_layers() * model.max_experts()), 0);
  Decoder::Forward args;
  args.logits = last.data();
  args.nll = nll.data();
  args.targets = targets.data();
  args.trace = &traces;
  args.expert_counts = counts.data();
  REQUIRE(Session(model).forward(args, ids).ok());

  CHECK(std::memcmp(last.data(), &all[(n - 1) * v], v * sizeof(float)) == 0);
  for (size_t t = 0; t < n; ++t) {
    double sum = 0;
    for (size_t i = 0; i < v; ++i) sum += std::exp(double{all[t * v + i]});
    CHECK(nll[t] == doctest::Approx(std::log(sum) - all[t * v + static_cast<size_t>(targets[t])]).epsilon(1e-6));
  }
  REQUIRE(traces.size() == 2);
  CHECK(traces[0].layer == 0);
  CHECK(traces[1].layer == 2);
  for (size_t layer = 0; layer < 2; ++layer) {
    const LayerTrace& trace = traces[layer];
    std::vector<uint64_t> seen(static_cast<size_t>(trace.experts), 0);
    for (const int32_t id : trace.ids) seen[static_cast<size_t>(id)]++;
    for (size_t e = 0; e < seen.size(); ++e) CHECK(seen[e] == counts[layer * seen.size() + e]);
    double worst = 0;
    for (size_t i = 0; i < n * h; ++i) {
      const double step = model.momentum.sign * trace.momentum_out[i];
      worst = std::max(worst, std::fabs(trace.residual_in[i] + step - trace.residual_out[i]));
      if (layer == 0) worst = std::max(worst, std::fabs(double{trace.momentum_out[i]} - trace.output[i]));
    }
    CHECK(worst < 1e-5);  // one f32 addition at magnitudes below ten
  }

  Session prefill(model);  // no logits wanted: only the cache is filled
  REQUIRE(prefill.forward(Decoder::Forward(), slice(ids, 0, n - 1)).ok());
  CHECK(std::memcmp(prefill.logits({ids[n - 1]}).data(), last.data(), v * sizeof(float)) == 0);
}

TEST_CASE("a refused call changes nothing") {
  TinyOptions options;
  const Decoder model = tiny(options);
  Session session(model, 1, 16);
  const std::vector<int32_t> ids = random_ids(12, model.vocab, 8);
  const std::vector<float> expected = Session(model).logits(ids);
  session.logits(slice(ids, 0, 10));

  Decoder::Forward args;
  CHECK(session.forward(args, random_ids(7, model.vocab, 1)).code() == Code::ContextOverflow);
  CHECK(session.forward(args, {}).code() == Code::InvalidArgument);
  const Status status = session.forward(args, {1, 2, 61});
  CHECK(status.code() == Code::TokenOutOfRange);
  CHECK(status.message() == "ids[2] must be in [0, 61), got 61");
  CHECK(session.forward(args, {-1}).code() == Code::TokenOutOfRange);
  double nll[1];
  args.nll = nll;
  CHECK(session.forward(args, {1}).code() == Code::InvalidArgument);
  const int32_t target = 61;
  args.targets = &target;
  CHECK(session.forward(args, {1}).code() == Code::TokenOutOfRange);

  options.pattern = "m";
  const Decoder other = tiny(options);
  args = Decoder::Forward();
  args.ids = ids.data();
  args.tokens = 1;
  args.cache = &session.cache;
  CHECK(other.forward(args, *kernels(), session.pool, session.workspace).code() == Code::InvalidArgument);

  CHECK(session.cache.length() == 10);
  const std::vector<float> rest = session.logits(slice(ids, 10, 12));
  CHECK(std::memcmp(rest.data(), &expected[10 * 61], rest.size() * sizeof(float)) == 0);
}

TEST_CASE("a cancelled call leaves the cache as it was") {
  TinyOptions options;
  const Decoder model = tiny(options);
  const std::vector<int32_t> ids = random_ids(900, model.vocab, 8);
  const std::vector<float> expected = Session(model).logits(slice(ids, 0, 11));
  Session session(model, 2, 1024);
  session.logits(slice(ids, 0, 10));
  CancelFlag flag;
  Decoder::Forward args;
  args.cancel = &flag;
  flag.set = true;
  CHECK(session.forward(args, ids).code() == Code::Cancelled);
  CHECK(session.cache.length() == 10);
  for (int delay_us : {100, 1000, 5000}) {  // somewhere inside, or after the end
    flag.set = false;
    std::thread canceller([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
      flag.set = true;
    });
    const Status status = session.forward(args, ids);
    canceller.join();
    if (status.ok()) session.cache.truncate(10);
    CHECK(session.cache.length() == 10);
  }
  const std::vector<float> rest = session.logits({ids[10]});
  CHECK(std::memcmp(rest.data(), &expected[10 * 61], rest.size() * sizeof(float)) == 0);
}

TEST_CASE("validate names the layer and the tensor") {
  TinyOptions options;
  options.pattern = "md";
  options.qk_norm = QkNorm::PerHead;
  Decoder model = tiny(options);
  const auto message = [&] { return model.validate().message(); };
  REQUIRE(model.validate().ok());
  CHECK(model.bytes() > 0);
  SUBCASE("projection") {
    std::swap(model.layers[1].attention_weights.k, model.layers[1].attention_weights.o);
    CHECK(message() == "layer 1 attention k must be [24, 40], got [40, 48]");
  }
  SUBCASE("qk norm") {
    model.layers[1].attention_weights.q_norm.pop_back();
    CHECK(message() == "layer 1 attention q norm must be [12], got [11]");
  }
  SUBCASE("norm") {
    model.layers[0].ffn_norm.weight.clear();
    CHECK(message() == "layer 0 feed-forward norm weight must be [40], got [0]");
  }
  SUBCASE("no feed-forward") {
    model.layers[1].dense.reset();
    CHECK(message() == "layer 1 must have either experts or a dense feed-forward");
  }
  SUBCASE("expert") {
    model.layers[0].moe->experts[3].up_bias.resize(5);
    CHECK(message() == "layer 0 expert 3 up bias must be [22], got [5]");
  }
  SUBCASE("heads") {
    model.layers[0].attention.kv_heads = 3;
    CHECK(message().find("layer 0 attention needs positive heads") == 0);
  }
  SUBCASE("output") {
    model.vocab = 60;
    CHECK(message() == "embedding must be [60, 40], got [61, 40]");
  }
  SUBCASE("momentum") {
    model.momentum = default_spec(MomentumType::HeavyBall);
    model.momentum.mu_layers = {0.5, 0.5};
    CHECK(model.validate().code() == Code::InvalidSpec);
  }
  SUBCASE("no layers") {
    model.layers.clear();
    CHECK(message() == "a decoder needs at least one layer");
  }
}
