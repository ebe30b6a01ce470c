// Conversions and pure functions, exhaustively where that is possible.
#include "core/dtype.h"
#include "emu_test.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

TEST_CASE("bf16 rounds as the CPU backend does") {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const float x = bit_cast<float>(high << 16 | low);
      if (std::isnan(x)) {
        REQUIRE(to_bf16(x).bits == 0x7FFF);
      } else {
        REQUIRE(to_bf16(x).bits == smoe::f32_to_bf16(x));
      }
    }
  }
}

TEST_CASE("e4m3: every value, and rounding to nearest even between neighbours") {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = to_float(e4m3{static_cast<uint8_t>(bits)});
    const int exponent = bits >> 3 & 15, fraction = bits & 7;
    if ((bits & 0x7F) == 0x7F) {
      REQUIRE(std::isnan(value));
      continue;
    }
    const double magnitude = exponent == 0 ? fraction * std::ldexp(1.0, -9) : std::ldexp(8 + fraction, exponent - 10);
    REQUIRE(value == (bits >= 128 ? -magnitude : magnitude));
    REQUIRE(to_e4m3(value).bits == bits);
    if ((bits & 0x7F) == 0x7E) continue;  // the largest
    const float next = to_float(e4m3{static_cast<uint8_t>(bits + 1)});
    const float middle = (value + next) / 2;
    REQUIRE(to_e4m3(middle).bits == (bits % 2 == 0 ? bits : bits + 1));
    REQUIRE(to_e4m3(std::nextafter(middle, value)).bits == bits);
    REQUIRE(to_e4m3(std::nextafter(middle, next)).bits == bits + 1);
  }
  CHECK(to_e4m3(1e30f).bits == 0x7E);
  CHECK(to_e4m3(-1e30f).bits == 0xFE);
  CHECK(to_e4m3(INFINITY).bits == 0x7E);
  CHECK(to_e4m3(NAN).bits == 0x7F);
}

TEST_CASE("prmt and lop3") {
  CHECK(prmt(0x33221100u, 0x77665544u, 0x7531u) == 0x77553311u);
  CHECK(prmt(0x00008000u, 0, 0x9D01u) == 0xFF000080u);
  const uint32_t a = 0xF0F0A5A5u, b = 0xCCCC1234u, c = 0xAAAA8765u;
  CHECK(lop3<0xEA>(a, b, c) == ((a & b) | c));
  CHECK(lop3<0x96>(a, b, c) == (a ^ b ^ c));
  CHECK(lop3<0x00>(a, b, c) == 0);
  CHECK(lop3<0xFF>(a, b, c) == 0xFFFFFFFFu);
}

TEST_CASE("bf16x2 fma rounds once") {
  const auto fma1 = [](float x, float y, float z) {
    return to_float(half_of(fma_bf16x2(pack2(x, 0.0f), pack2(y, 0.0f), pack2(z, 0.0f)), 0));
  };
  CHECK(fma1(136, 1, -136) == 0);
  CHECK(fma1(143, 1, -136) == 7);
  // 1 + 2^-8 is half-way between 1 and 1 + 2^-7: even wins, unless something tiny lies beside it.
  CHECK(fma1(0x1p-8f, 1, 1) == 1);
  CHECK(fma1(0x1.02p-8f, 1, 1) == 1 + 0x1p-7f);
  const float tie = 0x1.01p0f * 0x1p0f;  // not a bf16; made of a product below
  CHECK(tie > 1);
  // (1 + 2^-4)(1 + 2^-4) = 1 + 2^-3 + 2^-8: a tie at bit 8. A third operand of 2^-100 must decide it.
  const float x = 1 + 0x1p-4f;
  CHECK(fma1(x, x, 0) == 1.125f);
  CHECK(fma1(x, x, 0x1p-100f) == 1.125f + 0x1p-7f);
  CHECK(fma1(x, x, -0x1p-100f) == 1.125f);
}
