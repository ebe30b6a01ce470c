// Layers whose every choice is drawn at random, for the tests of layers on every backend.
#pragma once

#include <doctest/doctest.h>

#include <cmath>

#include "backend.h"
#include "formats/format_info.h"
#include "formats/rtn.h"
#include "layer/moe_layer.h"
#include "ops_support.h"

namespace smoe_test {

using namespace smoe;

inline PackedMatrix matrix(Random& random, int64_t rows, int64_t cols, WeightFormat format) {
  const std::vector<float> values = random.row(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
  PackedMatrix packed;
  REQUIRE(pack({values.data(), Dtype::F32, rows, cols}, format, &packed).ok());
  return packed;
}

inline ExpertWeights expert(Random& random, int64_t h, int64_t width, bool glu, bool biases, WeightFormat format) {
  ExpertWeights weights;
  if (glu) weights.gate = matrix(random, width, h, format);
  weights.up = matrix(random, width, h, format);
  weights.down = matrix(random, h, width, format);
  if (biases) {
    if (glu) weights.gate_bias = random.row(width, 0.3f);
    weights.up_bias = random.row(width, 0.3f);
    weights.down_bias = random.row(h, 0.3f);
  }
  return weights;
}

// Each projection of each expert in a format, group and symmetry of its own (gate and up alike); sizes are multiples
// of 16.
inline ExpertWeights mixed_expert(Random& random, int64_t h, int64_t width, bool glu, bool biases) {
  ExpertWeights weights = expert(random, h, width, glu, biases, WeightFormat::BF16);
  const auto quantized = [&](int64_t rows, int64_t cols, int choice, bool asymmetric) {
    const std::vector<float> values = random.row(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
    RtnOptions options;
    if (choice >= kWeightFormats) options.codebook = choice - kWeightFormats + 1;
    const WeightFormat format = choice >= kWeightFormats ? WeightFormat::W4C : WeightFormat(choice);
    PackedMatrix packed;
    const MatrixSource source{values.data(), Dtype::F32, rows, cols};
    if (format_info(format) == nullptr) {
      REQUIRE(pack(source, format, &packed).ok());
      return packed;
    }
    options.asymmetric = asymmetric && format_info(format)->asymmetric;
    options.planes = random.below(3);
    QuantizedMatrix matrix;
    const Status status = quantize_rtn(source, format, options, &matrix);
    REQUIRE_MESSAGE(status.ok(), status.message());
    REQUIRE(pack_quantized(matrix, &packed).ok());
    return packed;
  };
  const int first = random.below(kWeightFormats + 2), second = random.below(kWeightFormats + 2);
  if (glu) weights.gate = quantized(width, h, first, random.below(2) == 0);
  weights.up = quantized(width, h, first, random.below(2) == 0);
  weights.down = quantized(h, width, second, random.below(2) == 0);
  return weights;
}

// A layer whose every choice is drawn at random; sizes are deliberately not multiples of 16 or of 2, unless the
// experts' formats are `mixed`.
inline MoeLayer random_layer(Random& random, bool mixed = false) {
  MoeLayer layer;
  const WeightFormat format = random.below(3) == 0 ? WeightFormat::F32 : WeightFormat::BF16;
  const int64_t h = mixed ? 16 * (1 + random.below(10)) : 3 + random.below(70);
  const auto any_expert = [&](bool biases) {
    const int64_t width = mixed ? 16 * (1 + random.below(8)) : 1 + random.below(50);
    return mixed ? mixed_expert(random, h, width, layer.config.glu, biases)
                 : expert(random, h, width, layer.config.glu, biases, format);
  };
  const int e = 2 * (1 + random.below(8));
  layer.config.hidden = h;
  layer.config.glu = random.below(4) != 0;
  layer.config.activation = layer.config.glu ? Activation(random.below(3)) : Activation(random.below(5));
  layer.config.precision = random.below(2) == 0 ? Precision::Exact : Precision::Fast;
  RouterConfig& router = layer.config.router;
  router.experts = e;
  router.k = 1 + random.below(e < 4 ? e : 4);
  router.score = random.below(2) == 0 ? ScoreFn::Softmax : ScoreFn::Sigmoid;
  router.norm_p = static_cast<float>(random.below(2));
  router.norm_eps = NormEps::Add;
  router.eps = 1e-20f;
  router.scale = random.below(2) == 0 ? 1.0f : 2.5f;
  router.weight_on_input = random.below(5) == 0;
  const bool biases = random.below(2) == 0;
  layer.router_weight = matrix(random, e, h, format);
  if (biases) layer.router_bias = random.row(e, 0.1f);
  if (random.below(2) == 0) {
    layer.model_bias = random.row(e, 0.1f);
    router.has_bias = true;
  }
  for (int i = 0; i < e; ++i) layer.experts.push_back(any_expert(biases));
  if (random.below(2) == 0) {
    layer.shared.push_back(any_expert(biases));
    if (random.below(2) == 0) layer.shared_gate = matrix(random, 1, h, format);
  }
  REQUIRE(layer.validate().ok());
  return layer;
}

struct Run {
  std::vector<float> out;
  std::vector<int32_t> ids, count;
  std::vector<float> weights;
};

inline Run run(Backend& backend, const MoeLayer& layer, const std::vector<float>& hidden, int threads = 2) {
  const int64_t h = layer.config.hidden;
  Run result;
  MoeLayer::Forward args;
  args.hidden = hidden.data();
  args.tokens = static_cast<int64_t>(hidden.size()) / h;
  const size_t pairs = static_cast<size_t>(args.tokens * layer.config.router.k);
  result.out.assign(hidden.size(), NAN);
  result.ids.resize(pairs);
  result.weights.resize(pairs);
  result.count.resize(static_cast<size_t>(args.tokens));
  Routing routing{args.tokens, layer.config.router.k, result.ids.data(), result.weights.data(), result.count.data()};
  args.routing_out = &routing;
  args.out = result.out.data();
  const Status status = backend.forward(layer, args, threads);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return result;
}

}  // namespace smoe_test
