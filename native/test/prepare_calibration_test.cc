#include "prepare/calibration.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/workspace_pool.h"
#include "prepare/quantize.h"
#include "tiny_decoder.h"

using namespace smoe;
using namespace smoe::test;

namespace {

struct Text {
  Decoder model;
  std::vector<int32_t> ids;
  explicit Text(const TinyOptions& options) : model(tiny(options)), ids(random_ids(70, model.vocab, 5)) {}

  Status add(Calibration* sums, int64_t first, int64_t count, ThreadPool& pool, const CancelFlag* cancel = nullptr) {
    WorkspacePool::Lease work = WorkspacePool::process().lease();
    return sums->add(model, ids.data() + first, count, *kernels(), pool, *work, cancel);
  }
};

double dot(const PackedMatrix& matrix, int64_t row, const float* x) {
  std::vector<float> w(static_cast<size_t>(matrix.cols));
  unpack_row(matrix, row, w.data());
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) sum += static_cast<double>(w[i]) * x[i];
  return sum;
}

}  // namespace

TEST_CASE("calibration sums are those of the trace, computed in double") {
  TinyOptions options;
  options.biases = true;
  Text text(options);
  Calibration sums;
  REQUIRE(sums.init(text.model, {}).ok());
  REQUIRE(text.add(&sums, 0, 70, ThreadPool::process()).ok());
  REQUIRE(sums.layers.size() == 2);
  CHECK(sums.layers[1].layer == 2);

  std::vector<LayerTrace> trace;
  KvCache cache = text.model.make_cache(70);
  Decoder::Forward args;
  args.ids = text.ids.data();
  args.tokens = 70;
  args.cache = &cache;
  args.trace = &trace;
  WorkspacePool::Lease work = WorkspacePool::process().lease();
  REQUIRE(text.model.forward(args, *kernels(), ThreadPool::process(), *work).ok());
  for (size_t l = 0; l < 2; ++l) {
    const MoeLayer& layer = *text.model.layers[static_cast<size_t>(sums.layers[l].layer)].moe;
    CHECK(sums.layers[l].tokens == 70);
    int64_t assigned = 0;
    for (size_t e = 0; e < layer.experts.size(); ++e) {
      const ExpertSums& own = sums.layers[l].experts[e];
      const ExpertWeights& expert = layer.experts[e];
      double weight = 0, input = 0, units = 0, cross = 0;
      for (size_t pair = 0; pair < trace[l].ids.size(); ++pair) {
        if (trace[l].ids[pair] != static_cast<int32_t>(e)) continue;
        const float* x = trace[l].input.data() + pair / 2 * 40;
        weight += trace[l].weights[pair];
        input += static_cast<double>(x[3]) * x[17];
        double h[2];
        for (int i = 0; i < 2; ++i) {
          const int64_t unit = 4 + 9 * i;
          const double gate = dot(expert.gate, unit, x) + expert.gate_bias[size_t(unit)];
          h[i] = gate / (1 + std::exp(-gate)) * (dot(expert.up, unit, x) + expert.up_bias[size_t(unit)]);
        }
        units += h[0] * h[0];
        cross += h[0] * h[1];
      }
      assigned += own.input.count;
      CHECK(own.units.count == own.input.count);
      CHECK(own.weight == doctest::Approx(weight));
      CHECK(own.input.at(3, 17) == doctest::Approx(input));
      CHECK(own.input.at(17, 3) == own.input.at(3, 17));
      CHECK(own.units.at(4, 4) == doctest::Approx(units).epsilon(1e-4));
      CHECK(std::fabs(own.units.at(13, 4) - cross) < 1e-3);
    }
    CHECK(assigned == 140);
  }
}

TEST_CASE("calibration gives the same bits on one thread and on all") {
  Text text({});
  Calibration one, all;
  ThreadPool single(1);
  REQUIRE(one.init(text.model, {}).ok());
  REQUIRE(all.init(text.model, {}).ok());
  for (int64_t first : {0, 35}) {
    REQUIRE(text.add(&one, first, 35, single).ok());
    REQUIRE(text.add(&all, first, 35, ThreadPool::process()).ok());
  }
  for (size_t l = 0; l < 2; ++l) {
    for (size_t e = 0; e < 5; ++e) {
      const ExpertSums &a = one.layers[l].experts[e], &b = all.layers[l].experts[e];
      CHECK(a.input.lower == b.input.lower);
      CHECK(a.units.lower == b.units.lower);
      CHECK(a.sample == b.sample);
    }
  }
}

TEST_CASE("samples stay within their number, and errors of experts are measured on them") {
  Text text({});
  Calibration sums;
  CalibrationConfig config;
  config.samples = 7;
  config.first_layer = 2;
  REQUIRE(sums.init(text.model, config).ok());
  CHECK(sums.layers.size() == 1);
  CHECK(sums.find(0) == nullptr);
  REQUIRE(text.add(&sums, 0, 70, ThreadPool::process()).ok());
  const LayerSums& layer = *sums.find(2);
  const MoeLayer& moe = *text.model.layers[2].moe;
  double before = 1e30;
  for (WeightFormat format : {WeightFormat::W2, WeightFormat::W4, WeightFormat::W8}) {
    double total = 0;
    for (size_t e = 0; e < 5; ++e) {
      const ExpertSums& own = layer.experts[e];
      CHECK(own.sample_weight.size() == static_cast<size_t>(std::min<int64_t>(7, own.input.count)));
      CHECK(own.sample.size() == own.sample_weight.size() * 40);
      const PackedMatrix& up = moe.experts[e].up;
      std::vector<float> values(static_cast<size_t>(up.rows * up.cols));
      for (int64_t r = 0; r < up.rows; ++r) unpack_row(up, r, values.data() + r * up.cols);
      QuantizeOptions options;
      options.format = format;
      options.group = 0;
      QuantizedMatrix matrix;
      REQUIRE(quantize(values.data(), up.rows, up.cols, options, &own.input, ThreadPool::process(), nullptr, &matrix,
                       nullptr)
                  .ok());
      WorkspacePool::Lease work = WorkspacePool::process().lease();
      double error = -1, scale = -1;
      const auto measure = [&](const ExpertReplacement& replacement) {
        return expert_error(moe, own, moe.experts[e], replacement, nullptr, *kernels(), ThreadPool::process(), *work,
                            nullptr, &error, &scale);
      };
      REQUIRE(measure({}).ok());
      CHECK(error == 0);
      ExpertReplacement replacement;
      replacement.gate = &matrix;  // any matrix of the shape: the error then is large, but a number
      replacement.up = &matrix;
      REQUIRE(measure(replacement).ok());
      CHECK(std::isfinite(error));
      // The gate as it is, in f32 as its partner will be.
      QuantizedMatrix gate;
      for (int64_t r = 0; r < up.rows; ++r) unpack_row(moe.experts[e].gate, r, values.data() + r * up.cols);
      options.format = WeightFormat::W8;
      REQUIRE(
          quantize(values.data(), up.rows, up.cols, options, nullptr, ThreadPool::process(), nullptr, &gate, nullptr)
              .ok());
      replacement.gate = &gate;
      REQUIRE(measure(replacement).ok());
      CHECK(error < scale);
      total += error;
    }
    CHECK(total < before);
    before = total;
  }
}

TEST_CASE("the layer's mean helps an expert of few rows, and only it") {
  Text text({});
  Calibration sums;
  REQUIRE(sums.init(text.model, {}).ok());
  REQUIRE(text.add(&sums, 0, 70, ThreadPool::process()).ok());
  const LayerSums& layer = sums.layers[0];
  double rows = 0, whole = 0;
  for (const ExpertSums& expert : layer.experts) {
    rows += static_cast<double>(expert.input.count);
    whole += expert.input.at(2, 1);
  }
  OuterSum none, some;
  REQUIRE(blend_with_layer(layer, 3, 0, &none).ok());
  CHECK(none.lower == layer.experts[3].input.lower);
  REQUIRE(blend_with_layer(layer, 3, 40, &some).ok());
  CHECK(some.count == layer.experts[3].input.count + 40);
  CHECK(some.at(2, 1) == doctest::Approx(layer.experts[3].input.at(2, 1) + 40 * whole / rows));
}

TEST_CASE("a cancelled calibration is refused afterwards, unless nothing was added yet") {
  Text text({});
  Calibration sums;
  REQUIRE(sums.init(text.model, {}).ok());
  CancelFlag flag;
  flag.set = true;
  CHECK(text.add(&sums, 0, 70, ThreadPool::process(), &flag).code() == Code::Cancelled);
  CHECK_FALSE(sums.spoiled());
  CHECK(text.add(&sums, 0, 70, ThreadPool::process()).ok());
  CHECK(sums.layers[0].tokens == 70);
}
