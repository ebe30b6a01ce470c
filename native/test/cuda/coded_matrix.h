// Random matrices of codes, as the CPU packs them, with their values; and their atoms.
#pragma once

#include <algorithm>

#include "kernels/experts/code_atoms.h"
#include "kernels/experts/pack_atoms.h"
#include "test/quant_support.h"

namespace smoe::cu::test {

struct CodeSpec {
  WeightFormat format = WeightFormat::BF16;  // of no codes: the matrix is plain
  int group = 0;                             // 0: one per row
  bool asymmetric = false;
  int codebook = 0;
  bool f32_scales = false;  // scales that f16 does not hold
  bool extreme = false;     // every code is the largest
  int planes = 0;           // wn: residual planes
  int read = 255;           // of which so many are read

  bool plain() const { return format == WeightFormat::BF16; }
};

// One of each for matrices of `cols` columns, the last one plain; groups where they divide the columns.
inline std::vector<CodeSpec> some_codes(int cols) {
  std::vector<CodeSpec> specs = {{WeightFormat::W4, 32, true},
                                 {WeightFormat::W8, 64},
                                 {WeightFormat::T2},
                                 {WeightFormat::F8, 128},
                                 {WeightFormat::W4C, 32},
                                 {WeightFormat::W4, 128},
                                 {WeightFormat::W8, 32, true},
                                 {WeightFormat::W4C, 16, false, 1},
                                 {WeightFormat::W2, 32, true},
                                 {WeightFormat::W3, 64, true},
                                 {WeightFormat::W1, 64},
                                 {WeightFormat::W4, 64, false, 0, true},
                                 {}};
  for (CodeSpec& spec : specs) {
    if (spec.group > 0 && cols % spec.group != 0) spec.group = 0;
  }
  return specs;
}

// Bit-nested ones, among others; as above.
inline std::vector<CodeSpec> nested_codes(int cols) {
  const auto nested = [](int group, bool asymmetric, int planes, int read = 255) {
    CodeSpec spec{WeightFormat::WN, group, asymmetric};
    spec.planes = planes;
    spec.read = read;
    return spec;
  };
  std::vector<CodeSpec> specs = {nested(32, true, 2),   {WeightFormat::W4, 64, true}, nested(64, false, 3, 1),
                                 nested(0, true, 1, 0), {WeightFormat::F8, 64},       nested(128, true, 6),
                                 nested(32, false, 0),  nested(64, true, 2, 4),       {}};
  specs[5].f32_scales = true;
  for (CodeSpec& spec : specs) {
    if (spec.group > 0 && cols % spec.group != 0) spec.group = 0;
  }
  return specs;
}

// What cu::NestedRead says of experts whose matrices are such.
inline std::vector<int32_t> planes_read(const std::vector<CodeSpec>& specs, int experts) {
  std::vector<int32_t> read(static_cast<size_t>(experts), 255);
  for (size_t e = 0; e < specs.size(); ++e) read[e] = specs[e].read;
  return read;
}
inline bool has_planes(const std::vector<CodeSpec>& specs) {
  return std::any_of(specs.begin(), specs.end(), [](const CodeSpec& spec) { return spec.planes > 0; });
}

struct CodedMatrix {
  QuantizedMatrix codes;
  PackedMatrix packed;
  std::vector<float> values;  // [rows, cols], with the planes that are read
  // What f32 rounding is relative to: |scale| (|code| + |zero point|), above |value| where the two cancel, and so for
  // each plane.
  std::vector<float> sizes;
};

inline CodedMatrix coded_matrix(const CodeSpec& c, int64_t rows, int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  CodedMatrix out;
  out.codes = smoe_test::random_codes(random, c.format, rows, cols, c.group > 0 ? c.group : cols, c.asymmetric);
  QuantizedMatrix& m = out.codes;
  m.codebook = c.codebook;
  m.planes.resize(static_cast<size_t>(c.planes));
  float size = 1;
  for (QuantizedMatrix::Plane& plane : m.planes) {  // each about half as large as what is before it
    size /= 2;
    plane.bits.resize(m.codes.size());
    for (uint8_t& bit : plane.bits) bit = static_cast<uint8_t>(random() % 2);
    plane.scales = m.scales;
    for (float& scale : plane.scales) scale = f16_to_f32(f32_to_f16(scale * size * (random() % 5 == 0 ? -0.7f : 0.9f)));
  }
  if (c.extreme) {
    for (uint8_t& code : m.codes) {
      code = static_cast<uint8_t>(c.format == WeightFormat::F8 ? 0x7E : format_info(c.format)->max_code);
    }
  }
  for (float& scale : m.scales) {
    if (c.format == WeightFormat::W4C && c.codebook == 0) scale = std::ldexp(1.0f, static_cast<int>(random() % 7) - 3);
    if (c.f32_scales) scale *= 1.0001f;
  }
  const FormatInfo& info = *format_info(c.format);
  const auto value = [&](size_t at) { return std::fabs(info.value(m.codes[at], m.codebook)); };
  double squares = 0;
  for (size_t at = 0; at < m.codes.size(); ++at) squares += value(at) * value(at);
  const double rms = std::sqrt(squares / static_cast<double>(m.codes.size()) * static_cast<double>(cols));
  m.mul = static_cast<float>(1 / rms);
  const Status packed = pack_quantized(m, &out.packed);
  REQUIRE(packed.ok());
  const std::vector<QuantizedMatrix::Plane> planes = m.planes;
  if (static_cast<int>(planes.size()) > c.read) m.planes.resize(static_cast<size_t>(c.read));
  out.values.resize(m.codes.size());
  for (int64_t row = 0; row < rows; ++row) dequantize_row(m, row, out.values.data() + row * cols);
  for (size_t at = 0; at < m.codes.size(); ++at) {
    const size_t group = at / static_cast<size_t>(cols) * static_cast<size_t>(m.groups()) +
                         at % static_cast<size_t>(cols) / static_cast<size_t>(m.group);
    const float zero = m.zeros.empty() ? 0 : std::fabs(m.zeros[group] - static_cast<float>(info.zero));
    out.sizes.push_back(std::fabs(m.scales[group] * m.mul) * (value(at) + zero));
    for (const QuantizedMatrix::Plane& plane : m.planes) out.sizes.back() += std::fabs(plane.scales[group] * m.mul);
  }
  m.planes = planes;
  return out;
}

struct CodeAtoms {
  AtomPlan plan;
  std::vector<U32x4> atoms;
  std::vector<unsigned char> scales, zeros;
  std::vector<CodeAtoms> planes;  // wn

  // row(block, j): an AtomRow. padding: columns past the matrices.
  template <class Row>
  CodeAtoms(const std::vector<const PackedMatrix*>& matrices, int64_t blocks, Row row, int64_t padding = 0)
      : CodeAtoms(matrices, blocks, row, padding,
                  matrices[0]->format == WeightFormat::WN ? kNestedBase : kWholeMatrix) {
    int most = 0;
    for (const PackedMatrix* matrix : matrices) most = std::max(most, matrix->planes);
    for (int plane = 1; plane <= most; ++plane) planes.push_back(CodeAtoms(matrices, blocks, row, padding, plane));
  }
  template <class Row>
  CodeAtoms(const std::vector<const PackedMatrix*>& matrices, int64_t blocks, Row row, int64_t padding, int part) {
    REQUIRE(plan_atoms(matrices, matrices[0]->cols + padding, &plan, part));
    const size_t words = plan.atom_bytes / sizeof(U32x4), count = static_cast<size_t>(blocks);
    atoms.resize(count * words);
    scales.resize(count * plan.scale_bytes);
    if (plan.zeros) zeros.resize(scales.size());
    std::vector<unsigned char> scratch;
    for (size_t block = 0; block < count; ++block) {
      AtomRow rows[kAtomRows];
      for (int j = 0; j < kAtomRows; ++j) rows[j] = row(static_cast<int64_t>(block), j);
      pack_atom_block(plan, rows, atoms.data() + block * words, scales.data() + block * plan.scale_bytes,
                      plan.zeros ? zeros.data() + block * plan.scale_bytes : nullptr, &scratch);
    }
  }
  explicit CodeAtoms(const PackedMatrix& matrix, int64_t padding = 0)
      : CodeAtoms(
            {&matrix}, row_blocks(matrix.rows), [&](int64_t block, int j) { return atom_row(matrix, block, j); },
            padding) {}
  CodeAtoms(const PackedMatrix& gate, const PackedMatrix& up)
      : CodeAtoms({&gate, &up}, glu_row_blocks(gate.rows),
                  [&](int64_t block, int j) { return atom_row(gate, up, block, j); }) {}

  AtomMatrix view(const U32x4* atoms_at, const unsigned char* scales_at, const unsigned char* zeros_at) const {
    AtomMatrix matrix;
    matrix.atoms = atoms_at;
    matrix.scales = scales_at;
    matrix.zeros = plan.zeros ? zeros_at : nullptr;
    matrix.format = plan.format;
    matrix.scale_type = plan.scale_type;
    matrix.group = plan.group;
    matrix.mul = plan.mul;
    return matrix;
  }
};

}  // namespace smoe::cu::test
