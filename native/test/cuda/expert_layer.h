// Random experts and routes for the tests of K2 and K3, with references in double.
#pragma once

#include <memory>

#include "device_codes.h"
#include "kernels/dispatch/dispatch.h"
#include "kernels/experts/atoms.h"
#include "layer/reference.h"

namespace smoe::cu::test {

struct ExpertCase {
  int tokens, experts, slots, hidden, width;
  unsigned seed;
  ActivationSpec activation = Activation::Silu;
  bool biases = false, weight_on_input = false;
  int same_experts = 0;  // every token goes to the first `slots` experts
  bool glu = true;
  // Parts of activations and of weights; with three weight parts, expert 1 is in bf16 all the same.
  int x_parts = 1, w_parts = 1;
  bool sparse = false;  // one element of a row of activations is not zero: no product hides among the others
  // By expert; past the end, and where a spec is plain: bf16 or parts. Gate and up share a spec.
  std::vector<CodeSpec> gate_up_codes = {}, down_codes = {};
};

// Values as a kernel gets them: `parts` planes, whose sums are the values up to what lies below the last.
inline std::vector<bf16> planes_of(const std::vector<float>& values, int parts) {
  std::vector<bf16> planes;
  for (int p = 0; p < parts; ++p) {
    for (const float value : values) planes.push_back(bf16_part(value, p));
  }
  return planes;
}

struct ExpertInputs {
  ExpertCase c;
  std::vector<float> x, gate, up, down;  // bf16 values where there is one part
  // What the rounding of a sum is relative to, |weight| but for codes (coded_matrix.h).
  std::vector<float> gate_size, up_size, down_size;
  std::vector<std::shared_ptr<const PackedMatrix>> gate_packed, up_packed, down_packed;  // by expert; null: no codes
  std::vector<float> gate_bias, up_bias, down_bias, weights;
  std::vector<int32_t> ids, offset, token, slot, position;

  explicit ExpertInputs(const ExpertCase& made) : c(made) {
    const size_t e = size(c.experts), h = size(c.hidden), i = size(c.width);
    x = random_floats(size(c.tokens) * h, c.seed);
    if (c.sparse) keep_one(&x, c.hidden);
    if (c.x_parts == 1) x = rounded(x);
    gate = matrices(c.seed + 1, c.hidden);
    up = matrices(c.seed + 2, c.hidden);
    down = matrices(c.seed + 3, c.width);
    code(c.gate_up_codes, c.seed + 9, c.width, c.hidden, &gate, &gate_size, &gate_packed);
    code(c.gate_up_codes, c.seed + 90, c.width, c.hidden, &up, &up_size, &up_packed);
    code(c.down_codes, c.seed + 900, c.hidden, c.width, &down, &down_size, &down_packed);
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
  static std::vector<float> rounded(std::vector<float> values) {
    for (float& value : values) value = to_float(to_bf16(value));
    return values;
  }
  static void keep_one(std::vector<float>* rows, int cols) {
    for (size_t i = 0; i < rows->size(); ++i) {
      if (i % size(cols) != i / size(cols) * 7 % size(cols)) (*rows)[i] = 0;
    }
  }
  int weight_parts(int expert) const { return expert == 1 ? 1 : c.w_parts; }
  bool bf16_only() const { return c.x_parts == 1 && c.w_parts == 1 && c.gate_up_codes.empty() && c.down_codes.empty(); }
  // Whether x and the weights lose nothing to bf16.
  bool exact() const { return c.x_parts == 3 && (c.w_parts == 3 || !c.gate_up_codes.empty() || !c.down_codes.empty()); }
  static void code(const std::vector<CodeSpec>& specs, unsigned seed, int rows, int cols, std::vector<float>* values,
                   std::vector<float>* sizes, std::vector<std::shared_ptr<const PackedMatrix>>* packed) {
    sizes->clear();
    for (const float value : *values) sizes->push_back(std::fabs(value));
    packed->resize(values->size() / (size(rows) * size(cols)));
    for (size_t e = 0; e < specs.size(); ++e) {
      if (specs[e].plain()) continue;
      CodedMatrix m = coded_matrix(specs[e], rows, cols, seed + static_cast<unsigned>(e));
      const auto first = static_cast<std::ptrdiff_t>(e * size(rows) * size(cols));
      std::copy(m.values.begin(), m.values.end(), values->begin() + first);
      std::copy(m.sizes.begin(), m.sizes.end(), sizes->begin() + first);
      (*packed)[e] = std::make_shared<PackedMatrix>(std::move(m.packed));
    }
  }
  std::vector<float> matrices(unsigned seed, int cols) const {
    const size_t each = size(c.width) * size(c.hidden);
    auto values = random_floats(size(c.experts) * each, seed, 1 / std::sqrt(static_cast<float>(cols)));
    for (size_t at = 0; at < values.size(); ++at) {
      if (weight_parts(static_cast<int>(at / each)) == 1) values[at] = to_float(to_bf16(values[at]));
    }
    return values;
  }
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
        const double xk = scale * x[size(t * c.hidden + k)];
        g += gate[at] * xk;
        u += up[at] * xk;
        g_abs += std::fabs(gate_size[at] * xk);
        u_abs += std::fabs(up_size[at] * xk);
      }
      (*h)[size(i)] = c.glu ? reference::glu(c.activation, g, u) : reference::activate(c.activation.kind, u);
      // |act(g)| <= |g| (1 + |g| for Relu2) and |act'| <= 1.2 (2 |g| for Relu2), relative to the sums of magnitudes;
      // clamping brings values nearer to one another.
      const double a_abs = c.glu ? g_abs : u_abs;
      const double growth = c.activation.kind == Activation::Relu2 ? 2 * a_abs + 1 : 1;
      (*magnitude)[size(i)] = 1.2 * a_abs * growth * (c.glu ? u_abs + std::fabs(c.activation.beta) : 1);
    }
  }
};

// The experts' matrices on the device. They lie in descending order, so that only the table leads to them.
class ExpertMatrices {
  std::vector<emu::Buffer<U32x4>> atoms_;
  DeviceCodes codes_;

 public:
  emu::Buffer<AtomMatrix> table;

  // pack(expert, parts, out): bf16 parts; codes(expert): of what has them, else null.
  template <class Pack, class Codes>
  ExpertMatrices(Gpu& gpu, const ExpertInputs& in, Pack pack, Codes codes, const char* name)
      : table(gpu.constant(entries(gpu, in, pack, codes, name), "matrices")) {}

 private:
  template <class Pack, class Codes>
  std::vector<AtomMatrix> entries(Gpu& gpu, const ExpertInputs& in, Pack pack, Codes codes, const char* name) {
    std::vector<AtomMatrix> entries(ExpertInputs::size(in.c.experts));
    for (int e = in.c.experts - 1; e >= 0; --e) {
      AtomMatrix& matrix = entries[ExpertInputs::size(e)];
      if (const std::unique_ptr<CodeAtoms> coded = codes(e)) {
        matrix = codes_.upload(gpu, *coded, name);
        continue;
      }
      std::vector<bf16> packed;
      pack(e, in.weight_parts(e), &packed);
      std::vector<U32x4> words(packed.size() / 8);
      if (!words.empty()) std::memcpy(words.data(), packed.data(), packed.size() * sizeof(bf16));
      atoms_.push_back(gpu.constant(words, name));
      matrix.atoms = atoms_.back().data();
      if (in.weight_parts(e) == 1) continue;
      matrix.format = AtomFormat::Bf16x3;
      matrix.part_step = static_cast<int64_t>(words.size() / 3);
    }
    return entries;
  }
};

inline ExpertMatrices gate_up_matrices(Gpu& gpu, const ExpertInputs& in) {
  const auto pack = [&](int e, int parts, std::vector<bf16>* out) {
    const int64_t h = in.c.hidden;
    const size_t first = in.size(e) * in.size(in.c.width) * in.size(in.c.hidden);
    const auto gate = [&](int64_t row, int64_t col) { return in.gate[first + static_cast<size_t>(row * h + col)]; };
    const auto up = [&](int64_t row, int64_t col) { return in.up[first + static_cast<size_t>(row * h + col)]; };
    if (in.c.glu) {
      pack_glu_rows(in.c.width, h, parts, gate, up, out);
    } else {
      pack_rows(in.c.width, h, parts, up, out);
    }
  };
  const auto codes = [&](int e) -> std::unique_ptr<CodeAtoms> {
    if (in.gate_packed[in.size(e)] == nullptr) return nullptr;
    const PackedMatrix &gate = *in.gate_packed[in.size(e)], &up = *in.up_packed[in.size(e)];
    return in.c.glu ? std::make_unique<CodeAtoms>(gate, up) : std::make_unique<CodeAtoms>(up);
  };
  return ExpertMatrices(gpu, in, pack, codes, "gate and up");
}

inline ExpertMatrices down_matrices(Gpu& gpu, const ExpertInputs& in) {
  const auto pack = [&](int e, int parts, std::vector<bf16>* out) {
    const size_t first = in.size(e) * in.size(in.c.width) * in.size(in.c.hidden);
    const auto value = [&](int64_t row, int64_t col) {
      return in.down[first + static_cast<size_t>(row * in.c.width + col)];
    };
    pack_rows(in.c.hidden, in.c.width, parts, value, out);
  };
  const auto codes = [&](int e) -> std::unique_ptr<CodeAtoms> {
    if (in.down_packed[in.size(e)] == nullptr) return nullptr;
    return std::make_unique<CodeAtoms>(*in.down_packed[in.size(e)]);
  };
  return ExpertMatrices(gpu, in, pack, codes, "down");
}

// The plan as K1 would leave it, on the emulated device.
struct PlanBuffers {
  emu::Buffer<uint64_t> mask;
  emu::Buffer<int32_t> offset;
  emu::Buffer<float> row_weight;

  PlanBuffers(Gpu& gpu, const ExpertInputs& in)
      : mask(gpu.constant(masks(in), "mask")),
        offset(gpu.constant(in.offset, "offset")),
        row_weight(gpu.constant(row_weights(in), "row weights")) {}
  DispatchBits bits() { return {mask.data(), offset.data(), nullptr, row_weight.data(), nullptr}; }

  static std::vector<uint64_t> masks(const ExpertInputs& in) {
    std::vector<uint64_t> out(ExpertInputs::size(in.c.experts), 0);
    for (int row = 0; row < in.pairs(); ++row) {
      out[ExpertInputs::size(in.expert_of(row))] |= uint64_t{1} << in.token[ExpertInputs::size(row)];
    }
    return out;
  }
  // Experts with rows.
  static int count(const ExpertInputs& in) {
    int n = 0;
    for (int e = 0; e < in.c.experts; ++e) {
      n += in.offset[ExpertInputs::size(e)] < in.offset[ExpertInputs::size(e + 1)];
    }
    return n;
  }
  static std::vector<float> row_weights(const ExpertInputs& in) {
    std::vector<float> out;
    for (int row = 0; row < in.pairs(); ++row) out.push_back(in.row_weight(row));
    return out;
  }
};

}  // namespace smoe::cu::test
