// Random experts and routes for the tests of K2 and K3, with references in double.
#pragma once

#include "emu_test.h"
#include "kernels/dispatch/dispatch.h"
#include "kernels/experts/gate_up.cuh"
#include "layer/reference.h"

namespace smoe::cu::test {

struct ExpertCase {
  int tokens, experts, slots, hidden, width;
  unsigned seed;
  Activation activation = Activation::Silu;
  bool biases = false, weight_on_input = false;
  int same_experts = 0;  // every token goes to the first `slots` experts
};

struct ExpertInputs {
  ExpertCase c;
  std::vector<bf16> x, gate, up, down;
  std::vector<float> gate_bias, up_bias, down_bias, weights;
  std::vector<int32_t> ids, offset, token, slot, position;

  explicit ExpertInputs(const ExpertCase& made) : c(made) {
    const size_t e = size(c.experts), h = size(c.hidden), i = size(c.width);
    x = random_bf16(size(c.tokens) * h, c.seed);
    gate = random_bf16(e * i * h, c.seed + 1, 1 / std::sqrt(static_cast<float>(h)));
    up = random_bf16(e * i * h, c.seed + 2, 1 / std::sqrt(static_cast<float>(h)));
    down = random_bf16(e * h * i, c.seed + 3, 1 / std::sqrt(static_cast<float>(i)));
    gate_bias = random_floats(e * i, c.seed + 4, 0.3f);
    up_bias = random_floats(e * i, c.seed + 5, 0.3f);
    down_bias = random_floats(e * h, c.seed + 6, 0.3f);
    std::mt19937 random(c.seed + 7);
    for (int t = 0; t < c.tokens; ++t) {
      // Distinct ids; about every eighth slot unused.
      const int first = c.same_experts != 0 ? 0 : static_cast<int>(random() % static_cast<unsigned>(c.experts));
      for (int j = 0; j < c.slots; ++j) ids.push_back(random() % 8 == 0 ? -1 : (first + j) % c.experts);
    }
    weights = random_floats(ids.size(), c.seed + 8, 0.5f);
    offset.resize(e + 1);
    token.resize(ids.size() + 1);
    slot.resize(ids.size() + 1);
    position.resize(ids.size() + 1);
    Dispatch plan{0, offset.data(), token.data(), slot.data(), position.data()};
    dispatch(ids.data(), c.tokens, c.slots, c.experts, &plan);
  }
  static size_t size(int n) { return static_cast<size_t>(n); }
  int pairs() const { return offset.back(); }
  int expert_of(int row) const {
    int e = 0;
    while (offset[size(e + 1)] <= row) ++e;
    return e;
  }
  float row_weight(int row) const { return weights[size(token[size(row)] * c.slots + slot[size(row)])]; }

  // h of one row in double, and the same sum over absolute values.
  void reference_h(int row, std::vector<double>* h, std::vector<double>* magnitude) const {
    const int e = expert_of(row), t = token[size(row)];
    const double scale = c.weight_on_input ? row_weight(row) : 1;
    h->assign(size(c.width), 0);
    magnitude->assign(size(c.width), 0);
    for (int i = 0; i < c.width; ++i) {
      double g = c.biases ? gate_bias[size(e * c.width + i)] : 0, u = c.biases ? up_bias[size(e * c.width + i)] : 0;
      double g_abs = std::fabs(g), u_abs = std::fabs(u);
      for (int k = 0; k < c.hidden; ++k) {
        const size_t at = (size(e) * size(c.width) + size(i)) * size(c.hidden) + size(k);
        const double xk = scale * to_float(x[size(t * c.hidden + k)]);
        g += to_float(gate[at]) * xk;
        u += to_float(up[at]) * xk;
        g_abs += std::fabs(to_float(gate[at]) * xk);
        u_abs += std::fabs(to_float(up[at]) * xk);
      }
      (*h)[size(i)] = reference::activate(c.activation, g) * u;
      // |act(g)| <= |g| (1 + |g| for Relu2) and |act'| <= 1.2 (2 |g| for Relu2), relative to the sums of magnitudes
      const double growth = c.activation == Activation::Relu2 ? 2 * g_abs + 1 : 1;
      (*magnitude)[size(i)] = 1.2 * g_abs * growth * u_abs;
    }
  }
};

// The plan as K1 would leave it, on the emulated device.
struct PlanBuffers {
  emu::Buffer<uint64_t> mask;
  emu::Buffer<int32_t> offset, active, active_count;
  emu::Buffer<float> row_weight;

  PlanBuffers(emu::Device& device, const ExpertInputs& in)
      : mask(device, masks(in), "mask"),
        offset(device, in.offset, "offset"),
        active(device, actives(in), "active"),
        active_count(device, std::vector<int32_t>{count(in)}, "active_count"),
        row_weight(device, row_weights(in), "row weights") {}
  DispatchBits bits() {
    return {mask.data(), offset.data(), active.data(), active_count.data(), nullptr, row_weight.data()};
  }

  static std::vector<uint64_t> masks(const ExpertInputs& in) {
    std::vector<uint64_t> out(ExpertInputs::size(in.c.experts), 0);
    for (int row = 0; row < in.pairs(); ++row) {
      out[ExpertInputs::size(in.expert_of(row))] |= uint64_t{1} << in.token[ExpertInputs::size(row)];
    }
    return out;
  }
  static std::vector<int32_t> actives(const ExpertInputs& in) {
    std::vector<int32_t> out;
    for (int e = 0; e < in.c.experts; ++e) {
      if (in.offset[ExpertInputs::size(e)] < in.offset[ExpertInputs::size(e + 1)]) out.push_back(e);
    }
    out.resize(ExpertInputs::size(in.c.experts), 1 << 20);  // never to be used
    return out;
  }
  static int count(const ExpertInputs& in) {
    int n = 0;
    for (const int e : actives(in)) n += e < in.c.experts;
    return n;
  }
  static std::vector<float> row_weights(const ExpertInputs& in) {
    std::vector<float> out;
    for (int row = 0; row < in.pairs(); ++row) out.push_back(in.row_weight(row));
    return out;
  }
};

inline std::vector<U32x4> as_atoms(const std::vector<bf16>& packed) {
  std::vector<U32x4> out(packed.size() / 8);
  if (!out.empty()) std::memcpy(out.data(), packed.data(), packed.size() * sizeof(bf16));
  return out;
}

}  // namespace smoe::cu::test
