// Bit-nested experts in a layer on a device.
#include "layer/device_moe_layer.h"
#include "layer_shape.h"

using namespace smoe;
using namespace smoe_test;

EMULATED_TEST_CASE("bit-nested experts at the bits of a call: as on the CPU, on every path") {
  CpuBackend cpu;
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    for (const bool glu : {true, false}) {
      Random random(11);
      Shape shape;
      shape.hidden = 64;
      shape.width = 32;
      shape.precision = precision;
      MoeLayer layer = make_layer(random, shape);
      layer.config.glu = glu;
      if (!glu) layer.config.activation = Activation::GeluErf;
      for (size_t e = 0; e < 4; ++e) {  // the others stay in bf16
        const int planes = static_cast<int>(e);
        ExpertWeights& expert = layer.experts[e];
        if (glu) expert.gate = nested_matrix(random, 32, 64, planes + 1);
        expert.up = nested_matrix(random, 32, 64, 4 - planes);
        expert.down = nested_matrix(random, 64, 32, planes);
      }
      if (!glu) {
        for (ExpertWeights& expert : layer.experts) expert.gate = PackedMatrix();
        layer.shared[0].gate = PackedMatrix();
      }
      const uint8_t some[6] = {2, 3, 8, 4, 2, 8}, all[6] = {8, 8, 8, 8, 8, 8};
      for (const int64_t tokens : {1, 23, 24, 65}) {
        CAPTURE(tokens);
        const std::vector<float> hidden = random.row(tokens * shape.hidden);
        const auto out = [&](Backend& on, const uint8_t* bits) {
          std::vector<float> out(hidden.size(), NAN);
          MoeLayer::Forward args;
          args.hidden = hidden.data();
          args.tokens = tokens;
          args.expert_bits = bits;
          args.out = out.data();
          REQUIRE(on.forward(layer, args).ok());
          return out;
        };
        layer.config.precision = Precision::Exact;
        const std::vector<float> want = out(cpu, some);
        layer.config.precision = precision;
        const std::vector<float> got = out(backend, some), whole = out(backend, nullptr);
        check_close(got, want, precision);
        CHECK(same_bits(whole, out(backend, all)));
        CHECK_FALSE(same_bits(got, whole));
      }
    }
  }
}
