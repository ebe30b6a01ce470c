// The backends that one test case runs on: the CPU, and a CUDA device through the emulation, under both of its
// schedules. BACKEND_TEST_CASE(name) { ... backend ... } registers a case per backend; those of the emulation end in
// "(emulated, lazy)" and "(emulated, eager)".
#pragma once

#include <doctest/doctest.h>

#include <algorithm>

#include "layer/moe_layer.h"
#ifdef SMOE_CUDA_EMU_LIBRARY
#include "emulated_device.h"
#include "layer/device_moe_layer.h"
#endif

namespace smoe_test {

using namespace smoe;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Status forward(const MoeLayer& layer, const MoeLayer::Forward& args, int threads) = 0;
  Status forward(const MoeLayer& layer, const MoeLayer::Forward& args) { return forward(layer, args, 2); }
  // The residual step of one token whose layer output is y.
  virtual void residual(const ResidualStep& step, const ResidualState& state, const std::vector<float>& x,
                        const std::vector<float>& y, std::vector<float>* out) = 0;
  // Of `count` repetitions, those worth their time: the emulation takes a thousand times as long.
  virtual unsigned repetitions(unsigned count) const { return count; }
  virtual bool device() const { return false; }
};

class CpuBackend : public Backend {
 public:
  using Backend::forward;
  Status forward(const MoeLayer& layer, const MoeLayer::Forward& args, int threads) override {
    ThreadPool pool(threads);
    Workspace workspace;
    return layer.forward(args, *kernels(), pool, workspace);
  }
  void residual(const ResidualStep& step, const ResidualState& state, const std::vector<float>& x,
                const std::vector<float>& y, std::vector<float>* out) override {
    const float* const rows[] = {y.data()};
    const float weight[] = {1.0f};
    out->resize(x.size());
    kernels()->combine(rows, weight, 1, nullptr, 0, x.data(), &step, &state, static_cast<int64_t>(x.size()),
                       out->data(), nullptr);
  }
};

// A matrix of zeros, for layers whose experts answer with their bias.
inline PackedMatrix zero_matrix(int64_t rows, int64_t cols) {
  const std::vector<float> zeros(static_cast<size_t>(rows * cols), 0.0f);
  PackedMatrix packed;
  REQUIRE(pack({zeros.data(), Dtype::F32, rows, cols}, WeightFormat::F32, &packed).ok());
  return packed;
}

// Expert e answers outputs[e], and the router gives its logit e, whatever the input is.
inline MoeLayer constant_layer(const std::vector<std::vector<float>>& outputs, const std::vector<float>& logits,
                               int k) {
  MoeLayer layer;
  const int64_t h = static_cast<int64_t>(outputs[0].size()), e = static_cast<int64_t>(outputs.size());
  layer.config.hidden = h;
  layer.config.precision = Precision::Exact;
  layer.config.router.experts = e;
  layer.config.router.k = k;
  layer.config.router.norm_p = 1;
  layer.router_weight = zero_matrix(e, h);
  layer.router_bias = logits;
  for (const std::vector<float>& output : outputs) {
    ExpertWeights expert;
    expert.gate = zero_matrix(1, h);
    expert.up = zero_matrix(1, h);
    expert.down = zero_matrix(h, 1);
    expert.down_bias = output;
    layer.experts.push_back(std::move(expert));
  }
  REQUIRE(layer.validate().ok());
  return layer;
}

#ifdef SMOE_CUDA_EMU_LIBRARY

class DeviceBackend : public Backend {
 public:
  explicit DeviceBackend(int schedule) { emulate("schedule", schedule); }
  ~DeviceBackend() override { emulate("schedule", 0); }
  using Backend::forward;
  Status forward(const MoeLayer& layer, const MoeLayer::Forward& args, int threads) override {
    ThreadPool pool(threads);
    std::unique_ptr<DeviceMoeLayer> uploaded;
    SMOE_RETURN_IF_ERROR(DeviceMoeLayer::create(emulated_device(), layer, pool, nullptr, &uploaded));
    return uploaded->forward(args);
  }
  void residual(const ResidualStep& step, const ResidualState& state, const std::vector<float>& x,
                const std::vector<float>& y, std::vector<float>* out) override {
    const MoeLayer layer = constant_layer({y}, {0}, 1);
    out->resize(x.size());
    MoeLayer::Forward args;
    args.hidden = args.residual = x.data();
    args.tokens = 1;
    args.step = step;
    args.state = state;
    args.out = out->data();
    const Status status = forward(layer, args);
    REQUIRE_MESSAGE(status.ok(), status.message());
  }
  unsigned repetitions(unsigned count) const override { return std::min(count, std::max(6u, count / 8)); }
  bool device() const override { return true; }
};

#ifdef SMOE_TEST_ON_GPU
#define SMOE_EMULATED_CASES(function, name) \
  TEST_CASE(name " (GPU)") {                \
    smoe_test::DeviceBackend backend(0);    \
    function(backend);                      \
  }
#else
#define SMOE_EMULATED_CASES(function, name) \
  TEST_CASE(name " (emulated, lazy)") {     \
    smoe_test::DeviceBackend backend(0);    \
    function(backend);                      \
  }                                         \
  TEST_CASE(name " (emulated, eager)") {    \
    smoe_test::DeviceBackend backend(1);    \
    function(backend);                      \
  }
#endif
#else
#define SMOE_EMULATED_CASES(function, name)
#endif

// Cases of devices alone.
#define SMOE_EMULATED_ONLY(function, name)           \
  static void function(smoe_test::Backend& backend); \
  SMOE_EMULATED_CASES(function, name)                \
  static void function([[maybe_unused]] smoe_test::Backend& backend)
#define EMULATED_TEST_CASE(name) SMOE_EMULATED_ONLY(DOCTEST_ANONYMOUS(smoe_backend_case_), name)

#define SMOE_BACKEND_CASES(function, name)           \
  static void function(smoe_test::Backend& backend); \
  TEST_CASE(name) {                                  \
    smoe_test::CpuBackend backend;                   \
    function(backend);                               \
  }                                                  \
  SMOE_EMULATED_CASES(function, name)                \
  static void function(smoe_test::Backend& backend)
#define BACKEND_TEST_CASE(name) SMOE_BACKEND_CASES(DOCTEST_ANONYMOUS(smoe_backend_case_), name)

}  // namespace smoe_test
