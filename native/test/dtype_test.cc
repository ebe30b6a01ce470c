#include "core/dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

using namespace smoe;

namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The definition, in double: (-1)^s 2^(e-15) 1.f, or (-1)^s 2^-14 0.f.
double f16_value(uint16_t h) {
  const int exponent = (h >> 10) & 31, fraction = h & 0x3ff;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

bool f16_is_nan(uint16_t h) { return (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0; }

}  // namespace

TEST_CASE("f16 to f32 is exact for all 65536 patterns, and back again is the identity") {
  int wrong = 0;
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const uint16_t h = static_cast<uint16_t>(pattern);
    const float value = f16_to_f32(h);
    if (f16_is_nan(h)) {
      wrong += !std::isnan(value) || !f16_is_nan(f32_to_f16(value));
    } else if ((h & 0x7fff) == 0x7c00) {
      wrong += !std::isinf(value) || std::signbit(value) != ((h & 0x8000) != 0) || f32_to_f16(value) != h;
    } else {
      wrong += static_cast<double>(value) != f16_value(h) || std::signbit(value) != ((h & 0x8000) != 0) ||
               f32_to_f16(value) != h;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("f32 to f16 rounds to nearest, ties to even, between all neighbours") {
  int wrong = 0;
  for (uint16_t h = 0; h < 0x7c00; ++h) {
    // 0x7c00 stands for 65536 here: values from the half-way point on become infinity
    const double low = f16_value(h), high = h == 0x7bff ? 65536.0 : f16_value(static_cast<uint16_t>(h + 1));
    const float middle = static_cast<float>((low + high) / 2);  // exact: one more bit than f16 has
    const uint16_t even = (h & 1) != 0 ? static_cast<uint16_t>(h + 1) : h;
    wrong += f32_to_f16(middle) != even;
    wrong += f32_to_f16(std::nextafter(middle, 0.0f)) != h;
    wrong += f32_to_f16(std::nextafter(middle, 1e9f)) != h + 1;
    wrong += f32_to_f16(-middle) != (even | 0x8000);
  }
  CHECK(wrong == 0);
  CHECK(f32_to_f16(1e30f) == 0x7c00);
  CHECK(f32_to_f16(1e-30f) == 0);
  CHECK(f32_to_f16(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(f16_is_nan(f32_to_f16(float_of(0x7f800001u))));
}

TEST_CASE("f32 to bf16 rounds to nearest, ties to even, and keeps NaN") {
  int wrong = 0;
  for (uint32_t high = 0; high < 65536; ++high) {
    const uint16_t b = static_cast<uint16_t>(high);
    const float exact = bf16_to_f32(b);
    if (std::isnan(exact)) {
      wrong += !std::isnan(bf16_to_f32(f32_to_bf16(exact)));
      continue;
    }
    wrong += f32_to_bf16(exact) != b;
    if (std::isinf(exact)) continue;
    wrong += f32_to_bf16(float_of(high << 16 | 0x7fff)) != b;
    wrong += f32_to_bf16(float_of(high << 16 | 0x8000)) != b + (b & 1);  // a carry may end in infinity, as it should
    wrong += f32_to_bf16(float_of(high << 16 | 0x8001)) != b + 1;
  }
  CHECK(wrong == 0);
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(float_of(0x7f800001u)))));  // payload only in the dropped bits
}

TEST_CASE("conversions take sources at any address") {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-100, 100);
  std::vector<float> values(37);
  for (float& value : values) value = bf16_to_f32(f32_to_bf16(std::round(uniform(random))));
  for (Dtype dtype : {Dtype::F32, Dtype::F16, Dtype::BF16}) {
    std::vector<unsigned char> bytes(values.size() * 4 + 1);
    from_f32(values.data(), values.size(), dtype, bytes.data() + 1);
    std::vector<float> back(values.size());
    to_f32(bytes.data() + 1, dtype, values.size(), back.data());
    CHECK(back == values);  // whole numbers of at most 8 bits are exact in all three
  }
  to_f32(nullptr, Dtype::F32, 0, nullptr);
  CHECK(bits_of(0.0f) == 0);
}
