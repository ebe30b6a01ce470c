// Atoms of codes: every layout is a bijection, every code is read back exactly, and packed matrices keep their values.
#include "code_element.h"
#include "coded_matrix.h"
#include "emu_test.h"
#include "kernels/experts/byte_codes.cuh"
#include "kernels/experts/multiply_codes.cuh"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

template <class Codes>
void check_layout() {
  std::vector<uint32_t> taken(128, 0);
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < Codes::kCols; ++col) {
      const CodePlace at = Codes::place(row, col);
      REQUIRE((at.lane >= 0 && at.lane < 32 && at.word >= 0 && at.word < 4));
      uint32_t& word = taken[static_cast<size_t>(4 * at.lane + at.word)];
      for (int bit = 0; bit < Codes::kBits; ++bit) {
        const uint32_t mask = Codes::spread(1u << bit, at.slot);
        REQUIRE((popc(mask) == 1 && (word & mask) == 0));
        word |= mask;
      }
      for (uint32_t code = 0; code < 1u << Codes::kBits; ++code) {
        uint32_t bits = 0;
        for (int bit = 0; bit < Codes::kBits; ++bit) {
          if ((code >> bit & 1) != 0) bits |= Codes::spread(1u << bit, at.slot);
        }
        REQUIRE(bits == Codes::spread(code, at.slot));
      }
    }
  }
  for (const uint32_t word : taken) CHECK(word == 0xFFFFFFFFu);
}

// Every code in every place, among others of every kind.
template <class Codes>
void check_fragments() {
  constexpr int kCodes = 1 << Codes::kBits;
  for (int shift = 0; shift < kCodes; ++shift) {
    std::vector<std::vector<uint8_t>> codes(16, std::vector<uint8_t>(Codes::kCols));
    const uint8_t* rows[16];
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < Codes::kCols; ++col) {
        const int code = (shift + 7 * row + 5 * col + row * col) % kCodes;
        codes[static_cast<size_t>(row)][static_cast<size_t>(col)] = static_cast<uint8_t>(code);
      }
      rows[row] = codes[static_cast<size_t>(row)].data();
    }
    U32x4 atom[32];
    pack_code_block(Codes{}, rows, Codes::kCols, atom);
    for (int lane = 0; lane < 32; ++lane) {
      for (int step = 0; step < Codes::kCols / 16; ++step) {
        uint32_t a[4];
        Codes::fragment(atom[lane], step, a);
        for (int reg = 0; reg < 4; ++reg) {
          for (int half = 0; half < 2; ++half) {
            const Element at = a16_element(lane, reg, half);
            const int code = codes[static_cast<size_t>(at.row)][static_cast<size_t>(16 * step + at.col)];
            if (Codes::kFormat == AtomFormat::F8 && (code & 0x7F) == 0x7F) continue;  // NaN, refused before
            const bf16 expected = to_bf16(code_value(Codes::kFormat, code));
            REQUIRE(to_float(expected) == code_value(Codes::kFormat, code));
            REQUIRE(half_of(a[reg], half).bits == expected.bits);
          }
        }
      }
    }
  }
}

// The bytes of a byte mma's A, in every place: slots of K are columns in the order pi that int8 activations have too.
template <class Codes>
void check_bytes() {
  constexpr int kCodes = 1 << Codes::kBits;
  for (int shift = 0; shift < kCodes; ++shift) {
    const auto code_at = [&](int row, int col) { return (shift + 7 * row + 5 * col + row * col) % kCodes; };
    std::vector<std::vector<uint8_t>> codes(16, std::vector<uint8_t>(Codes::kCols));
    const uint8_t* rows[16];
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < Codes::kCols; ++col) {
        codes[static_cast<size_t>(row)][static_cast<size_t>(col)] = static_cast<uint8_t>(code_at(row, col));
      }
      rows[row] = codes[static_cast<size_t>(row)].data();
    }
    U32x4 atom[32];
    pack_code_block(Codes{}, rows, Codes::kCols, atom);
    for (int lane = 0; lane < 32; ++lane) {
      for (int step = 0; step < Codes::kCols / 32; ++step) {
        uint32_t a[4];
        Codes::bytes(atom[lane], step, a);
        for (int reg = 0; reg < 4; ++reg) {
          for (int byte = 0; byte < 4; ++byte) {
            const Element at = a8_element(lane, reg, byte);
            const uint32_t got = a[reg] >> (8 * byte) & 0xFF;
            REQUIRE(got == static_cast<uint32_t>(code_at(at.row, 32 * step + physical_k(at.col))));
          }
        }
      }
    }
  }
}

float element(const CodeAtoms& m, int64_t row, int64_t col) {
  float value = code_element(m.view(m.atoms.data(), m.scales.data(), m.zeros.data()), m.plan.padded_cols, row, col);
  for (const CodeAtoms& plane : m.planes) value += element(plane, row, col);
  return value;
}

// Of two matrices of 35 rows: atoms of the first, and of both by 8 + 8 rows.
void check_values(const CodeAtoms& plain, const CodeAtoms& glu, const CodedMatrix& m, const CodedMatrix& other) {
  const int64_t cols = m.codes.cols;
  const auto value = [&](const CodedMatrix& of, int64_t row, int64_t col) {
    return row < 35 ? of.values[static_cast<size_t>(row * cols + col)] : 0;
  };
  for (int64_t row = 0; row < 48; ++row) {
    for (int64_t col = 0; col < cols; ++col) REQUIRE(element(plain, row, col) == value(m, row, col));
  }
  for (int64_t feature = 0; feature < 40; ++feature) {
    const int64_t row = feature / 8 * 16 + feature % 8;
    for (int64_t col = 0; col < cols; ++col) {
      REQUIRE(element(glu, row, col) == value(m, feature, col));
      REQUIRE(element(glu, row + 8, col) == value(other, feature, col));
    }
  }
}

const std::vector<CodeSpec> kSpecs = {
    {WeightFormat::W8, 32},
    {WeightFormat::W8, 64, true},
    {WeightFormat::W8},
    {WeightFormat::W4, 32, true},
    {WeightFormat::W4, 64},
    {WeightFormat::W4, 0, true},
    {WeightFormat::W3, 64, true},
    {WeightFormat::W3, 32},
    {WeightFormat::W2, 64, true},
    {WeightFormat::W2, 32},
    {WeightFormat::W1, 64},
    {WeightFormat::T2},
    {WeightFormat::T5},
    {WeightFormat::F8, 32},
    {WeightFormat::F8, 64, false, 0, true},
    {WeightFormat::W4C, 32},
    {WeightFormat::W4C, 16, false, 1},
};

}  // namespace

TEST_CASE("codes: layouts are bijections") {
  check_layout<W8Codes>();
  check_layout<W4Codes>();
  check_layout<T2Codes>();
  check_layout<F8Codes>();
  check_layout<Mxfp4Codes>();
  check_layout<SignCodes>();
}

TEST_CASE("codes: fragments are exact for every code in every place") {
  check_fragments<W8Codes>();
  check_fragments<W4Codes>();
  check_fragments<T2Codes>();
  check_fragments<F8Codes>();
  check_fragments<Mxfp4Codes>();
  check_fragments<SignCodes>();
}

TEST_CASE("codes: bytes lie in the order of K that activations have, in every place") {
  check_bytes<W8Bytes>();
  check_bytes<W4Bytes>();
  check_bytes<T2Bytes>();
  // Each byte of B meets the same column of A.
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < 2; ++reg) {
      for (int byte = 0; byte < 4; ++byte) {
        const int t = lane % 4, column = 2 * t + (byte & 1 ? 8 : 0) + (byte & 2 ? 1 : 0) + 16 * reg;
        REQUIRE(physical_k(b8_element(lane, reg, byte).row) == column);
      }
    }
  }
}

TEST_CASE("codes: f16 scales") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7C00) == 0x7C00) continue;
    REQUIRE(bit_cast<uint32_t>(to_float(f16{static_cast<uint16_t>(bits)})) ==
            bit_cast<uint32_t>(f16_to_f32(static_cast<uint16_t>(bits))));
  }
}

TEST_CASE("codes: packed matrices keep their values") {
  unsigned seed = 1;
  for (const CodeSpec& coding : kSpecs) {
    for (const int cols : {64, 192, 40, 320}) {
      CodeSpec c = coding;
      if (cols % 16 != 0 || (c.group > 0 && cols % c.group != 0)) c.group = 0;
      CAPTURE(static_cast<int>(c.format));
      CAPTURE(cols);
      const CodedMatrix m = coded_matrix(c, 35, cols, seed), other = coded_matrix(c, 35, cols, seed + 1);
      seed += 2;
      const CodeAtoms plain(m.packed), glu(m.packed, other.packed);
      REQUIRE(plain.plan.format == glu.plan.format);
      check_values(plain, glu, m, other);
    }
  }
}

TEST_CASE("codes: bit-nested matrices keep their values, whatever their planes") {
  unsigned seed = 30;
  const auto nested = [&](int group, int cols, int planes) {
    CodeSpec spec{WeightFormat::WN, group, seed % 2 == 0};
    spec.planes = planes;
    return coded_matrix(spec, 35, cols, seed++);
  };
  for (const int cols : {64, 320, 40}) {
    const CodedMatrix m = nested(cols == 40 ? 0 : 32, cols, 3), other = nested(cols == 320 ? 64 : 0, cols, 1);
    const CodeAtoms plain(m.packed, cols % 64), glu(m.packed, other.packed);
    CHECK(plain.planes.size() == 3);
    check_values(plain, glu, m, other);
  }
  AtomPlan plan;
  const CodedMatrix four = coded_matrix({WeightFormat::W4, 32}, 35, 64, 7), wn = nested(32, 64, 2);
  CHECK_FALSE(plan_atoms({&four.packed, &wn.packed}, 64, &plan, kNestedBase));
  CHECK_FALSE(plan_atoms({&wn.packed}, 64, &plan));
}

TEST_CASE("codes: gate and up of different groups and formats meet where they can") {
  const CodedMatrix wide = coded_matrix({WeightFormat::W4, 64, true}, 16, 128, 1),
                    fine = coded_matrix({WeightFormat::W3, 32}, 16, 128, 2),
                    row = coded_matrix({WeightFormat::W4}, 16, 128, 3);
  const CodeAtoms both(wide.packed, fine.packed), three(row.packed, wide.packed);
  CHECK(both.plan.group == 32);
  CHECK(three.plan.group == 64);
  for (int64_t feature = 0; feature < 16; ++feature) {
    for (int64_t col = 0; col < 128; ++col) {
      const size_t at = static_cast<size_t>(feature * 128 + col);
      const int64_t gate = feature / 8 * 16 + feature % 8;
      REQUIRE(element(both, gate, col) == wide.values[at]);
      REQUIRE(element(both, gate + 8, col) == fine.values[at]);
      REQUIRE(element(three, gate, col) == row.values[at]);
    }
  }
}

TEST_CASE("codes: columns past the matrix are zero") {
  unsigned seed = 60;
  for (const CodeSpec& spec : kSpecs) {
    if (spec.group == 0 && spec.asymmetric) continue;  // of codes that are zero, but for the zero point
    const int cols = spec.group > 0 ? 2 * spec.group : 41;
    const CodedMatrix m = coded_matrix(spec, 20, cols, seed++);
    const int padding = 96 - cols % 2;
    const CodeAtoms wide(m.packed, padding);
    for (int64_t row = 0; row < 32; ++row) {
      for (int64_t col = 0; col < cols + padding; ++col) {
        const bool real = row < 20 && col < cols;
        REQUIRE(element(wide, row, col) == (real ? m.values[static_cast<size_t>(row * cols + col)] : 0));
      }
    }
  }
}

TEST_CASE("codes: types of scales") {
  const auto type = [](const CodeSpec& c) { return CodeAtoms(coded_matrix(c, 20, 128, 5).packed).plan.scale_type; };
  CHECK(type({WeightFormat::W4C, 32}) == ScaleType::E8m0);
  CHECK(type({WeightFormat::W4C, 32, false, 1}) == ScaleType::F16);
  CHECK(type({WeightFormat::W4, 64}) == ScaleType::F16);
  CHECK(type({WeightFormat::W4, 64, false, 0, true}) == ScaleType::F32);
}

TEST_CASE("codes: what has no atoms") {
  AtomPlan plan;
  const auto planned = [&](const CodeSpec& c, int cols) {
    const CodedMatrix m = coded_matrix(c, 20, cols, 6);
    return plan_atoms({&m.packed}, cols, &plan);
  };
  CHECK(planned({WeightFormat::W4, 32}, 64));
  CHECK_FALSE(planned({WeightFormat::W4C, 32, false, 2}, 64));  // NF4
  CHECK_FALSE(planned({WeightFormat::WN, 32}, 64));
  CHECK_FALSE(planned({WeightFormat::W4, 16}, 64));
  CHECK_FALSE(planned({WeightFormat::W8, 40}, 80));
  CHECK_FALSE(planned({WeightFormat::W4}, 41));
  const CodedMatrix four = coded_matrix({WeightFormat::W4, 32}, 16, 64, 7),
                    eight = coded_matrix({WeightFormat::W8, 32}, 16, 64, 8);
  CHECK_FALSE(plan_atoms({&four.packed, &eight.packed}, 64, &plan));
  CHECK_FALSE(plan_atoms({&four.packed}, 62, &plan));
  CHECK_FALSE(plan_atoms({}, 64, &plan));
}
