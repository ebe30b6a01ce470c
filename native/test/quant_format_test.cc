#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/f8.h"
#include "formats/w4c.h"
#include "quant_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

MatrixSource source_of(const std::vector<float>& values, int64_t rows) {
  return {values.data(), Dtype::F32, rows, static_cast<int64_t>(values.size()) / rows};
}

std::vector<float> random_weights(std::mt19937& random, int64_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = normal(random);
  return out;
}

std::vector<float> dequantized(const QuantizedMatrix& matrix, int64_t row) {
  std::vector<float> out(static_cast<size_t>(matrix.cols));
  dequantize_row(matrix, row, out.data());
  return out;
}

QuantizedMatrix codes_only(WeightFormat format, int64_t rows, int64_t cols) {
  QuantizedMatrix matrix;
  matrix.format = format;
  matrix.rows = rows;
  matrix.cols = matrix.group = cols;
  matrix.codes.resize(static_cast<size_t>(rows * cols));
  matrix.scales.assign(static_cast<size_t>(rows), 1.0f);
  return matrix;
}

}  // namespace

TEST_CASE("packed quantized matrices give every value back, and padding rows are zero") {
  std::mt19937 random(1);
  for (WeightFormat format : kQuantized) {
    for (int64_t rows : {1, 16, 17, 37}) {
      for (int64_t cols : {1, 16, 20, 33, 64, 320, 1300}) {
        for (int64_t group : groups_of(format, cols)) {
          const QuantizedMatrix source = random_codes(random, format, rows, cols, group, random() % 2 == 0);
          PackedMatrix packed;
          REQUIRE(pack_quantized(source, &packed).ok());
          std::vector<float> row(static_cast<size_t>(cols));
          int wrong = 0;
          for (int64_t r = 0; r < rows; ++r) {
            unpack_row(packed, r, row.data());
            wrong += row != dequantized(source, r);
          }
          for (int64_t r = rows; r < packed.tiles() * kTileRows; ++r) {
            unpack_row(packed, r, row.data());
            wrong += std::any_of(row.begin(), row.end(), [](float value) { return value != 0; });
          }
          INFO(weight_format_name(format));
          CAPTURE(rows);
          CAPTURE(cols);
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("scales are kept in the narrowest type that holds them exactly") {
  QuantizedMatrix matrix = codes_only(WeightFormat::W4, 2, 16);
  PackedMatrix packed;
  REQUIRE(pack_quantized(matrix, &packed).ok());
  CHECK(packed.scale_type == PlaneType::F16);
  matrix.scales[0] = 0x1p-100f;
  REQUIRE(pack_quantized(matrix, &packed).ok());
  CHECK(packed.scale_type == PlaneType::Bf16);
  matrix.scales[1] = 0.1f;
  REQUIRE(pack_quantized(matrix, &packed).ok());
  CHECK(packed.scale_type == PlaneType::F32);
}

TEST_CASE("P16 tiles by hand") {
  PackedMatrix packed;
  QuantizedMatrix w4 = codes_only(WeightFormat::W4, 16, 16), t2 = codes_only(WeightFormat::T2, 16, 20);
  for (size_t r = 0; r < 16; ++r) {
    for (size_t k = 0; k < 16; ++k) w4.codes[r * 16 + k] = static_cast<uint8_t>((r + 3 * k) % 16);
    for (size_t k = 0; k < 20; ++k) t2.codes[r * 20 + k] = static_cast<uint8_t>((r + k) % 3);
  }
  const auto begins = [&](int64_t chunk, const std::vector<int>& bytes) {
    for (size_t i = 0; i < bytes.size(); ++i) CHECK(packed.tile(0)[chunk * 64 + static_cast<int64_t>(i)] == bytes[i]);
  };
  REQUIRE(pack_quantized(w4, &packed).ok());
  begins(0, {0xc0, 0xf3, 0x26, 0x59, 0xd1, 0x04, 0x37, 0x6a});
  begins(1, {0x48, 0x7b, 0xae, 0xd1});
  REQUIRE(pack_quantized(t2, &packed).ok());
  begins(0, {0x24, 0x49, 0x92, 0x24, 0x49, 0x92, 0x24, 0x49});
  t2.format = WeightFormat::T5;
  REQUIRE(pack_quantized(t2, &packed).ok());
  begins(0, {102, 196, 65, 102, 196, 65, 102, 196});
  CHECK(packed.chunks() == 1);
}

TEST_CASE("E4M3 by hand, and every code comes back") {
  CHECK(f8_format::decode(0x01) == 0x1p-9f);
  CHECK(f8_format::decode(0x07) == 0.013671875f);
  CHECK(f8_format::decode(0x08) == 0.015625f);
  CHECK(f8_format::decode(0x38) == 1.0f);
  CHECK(f8_format::decode(0x77) == 240.0f);
  CHECK(f8_format::decode(0x7e) == 448.0f);
  const std::pair<float, int> pairs[] = {{0.3f, 0x2a},  {-1.7f, 0xbe},   {449.0f, 0x7e}, {17.0f, 0x58},
                                         {19.0f, 0x5a}, {0.0009f, 0x00}, {0.001f, 0x01}, {0.0f, 0x00}};
  for (const auto& [value, code] : pairs) CHECK(f8_format::encode(value) == code);
  CHECK(std::isnan(f8_format::decode(0x7f)));
  CHECK(f8_format::encode(NAN) == 0x7f);
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) != 0x7f) CHECK(f8_format::encode(f8_format::decode(static_cast<uint8_t>(code))) == code);
  }
  QuantizedMatrix matrix;
  const std::vector<float> block = {0.02f, -0.5f, 0.125f, 0.3f};
  REQUIRE(quantize_rtn(source_of(block, 1), WeightFormat::F8, 0, false, &matrix).ok());
  CHECK(matrix.codes == std::vector<uint8_t>{0x59, 0xfe, 0x6e, 0x78});
  CHECK(dequantized(matrix, 0)[3] == doctest::Approx(0.28571429));
}

TEST_CASE("V6 and V14: codes placed in the bits of wider floats") {
  const std::pair<int, int> to_bf16[] = {
      {0x01, 0x3b00}, {0x07, 0x3c60}, {0x08, 0x3c80}, {0x38, 0x3f80}, {0x7e, 0x43e0}};
  for (const auto& [code, bits] : to_bf16) CHECK(f32_to_bf16(f8_format::decode(static_cast<uint8_t>(code))) == bits);
  // A code in the low mantissa bits of a power of two is that power plus the code.
  for (int u = 0; u < 16; ++u) {
    const float low = f16_to_f32(static_cast<uint16_t>(0x6400 | u)),
                high = f16_to_f32(static_cast<uint16_t>(0x6400 | u << 4));
    CHECK(low == 1024.0f + static_cast<float>(u));
    CHECK(low - f16_to_f32(0x6408) == static_cast<float>(u - 8));
    CHECK(high * f16_to_f32(0x2c00) + f16_to_f32(0xd480) == static_cast<float>(u - 8));
    CHECK(bf16_to_f32(static_cast<uint16_t>(0x4300 | u)) - bf16_to_f32(0x4308) == static_cast<float>(u - 8));
    // E2M1 and E4M3 shifted under f16's exponent are off by a power of two alone.
    const auto e2m1 = static_cast<uint16_t>((u & 8) << 12 | (u & 7) << 9);
    CHECK(f16_to_f32(e2m1) * 0x1p14f == w4c_format::decode(u, 0));
  }
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    const auto bits = static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7f) << 7);
    CHECK(f16_to_f32(bits) * 256 == f8_format::decode(static_cast<uint8_t>(code)));
  }
  // Four nibbles to signed bytes less 8, without a borrow from one to the next.
  const uint32_t nibbles = 0x0f08070a, bytes = ((nibbles | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
  CHECK(bytes == 0x0700ff02u);
}

TEST_CASE("MXFP4 and NVFP4 by hand") {
  QuantizedMatrix matrix;
  REQUIRE(quantize_rtn(source_of({.1f, -.7f, 2.9f, .45f, -1.3f, .02f, 3.7f, -5.1f}, 1), WeightFormat::W4C, 8, false,
                       &matrix)
              .ok());
  CHECK(matrix.scales[0] == 1.0f);
  CHECK(matrix.codes == std::vector<uint8_t>{0, 9, 5, 1, 11, 0, 6, 15});
  CHECK(dequantized(matrix, 0) == std::vector<float>{0, -.5f, 3, .5f, -1.5f, 0, 4, -6});
  REQUIRE(quantize_rtn(source_of({7.9f, 0, 0, 0}, 1), WeightFormat::W4C, 4, false, &matrix).ok());
  CHECK(dequantized(matrix, 0)[0] == 8.0f);  // the exponent goes up rather than 7.9 down to 6

  std::vector<float> w = {.11f,  -.42f, .03f, .27f,  -.19f, .36f,  .05f, -.08f, .22f,
                          -.31f, .14f,  .4f,  -.02f, .09f,  -.25f, .33f, 1.5f};
  w.resize(32, 0.0f);
  RtnOptions options;
  options.codebook = 1;
  REQUIRE(quantize_rtn(source_of(w, 1), WeightFormat::W4C, options, &matrix).ok());
  CHECK(matrix.group == 16);
  CHECK(matrix.mul == doctest::Approx(1.0 / 1792));
  CHECK(matrix.scales[0] == 128.0f);
  const std::vector<uint8_t> codes = {3, 15, 1, 6, 13, 7, 1, 10, 5, 14, 4, 7, 9, 3, 14, 6};
  for (size_t k = 0; k < codes.size(); ++k) {
    // -0.25 is -3.5 steps, a tie that the rounding of the multiplier decides
    if (k != 14) CHECK(matrix.codes[k] == codes[k]);
  }
  CHECK((matrix.codes[14] == 13 || matrix.codes[14] == 14));
  CHECK(dequantized(matrix, 0)[0] == doctest::Approx(0.107143).epsilon(1e-5));
  CHECK(dequantized(matrix, 0)[1] == doctest::Approx(-0.428571).epsilon(1e-5));
}

TEST_CASE("integers and nested planes by hand") {
  const std::vector<float> w = {.6f, -1, .25f, .05f, -.3f, .9f, -.125f, 0};
  QuantizedMatrix matrix;
  REQUIRE(quantize_rtn(source_of(w, 1), WeightFormat::W4, 8, false, &matrix).ok());
  CHECK(matrix.codes == std::vector<uint8_t>{12, 1, 10, 8, 6, 14, 7, 8});
  REQUIRE(quantize_rtn(source_of(w, 1), WeightFormat::W8, 8, false, &matrix).ok());
  CHECK(matrix.codes == std::vector<uint8_t>{204, 1, 160, 134, 90, 242, 112, 128});
  REQUIRE(quantize_rtn(source_of(w, 1), WeightFormat::W4, 8, true, &matrix).ok());
  CHECK(matrix.zeros[0] == 8);
  CHECK(matrix.codes == std::vector<uint8_t>{13, 0, 10, 8, 6, 15, 7, 8});

  const std::vector<float> nested = {-1, -.4f, .1f, .35f, .6f, .9f, -.7f, .2f};
  double expected[] = {0.0415625, 0.0087109, 0.0013257};
  for (int planes = 0; planes < 3; ++planes) {
    RtnOptions options;
    options.planes = planes;
    REQUIRE(quantize_rtn(source_of(nested, 1), WeightFormat::WN, options, &matrix).ok());
    CHECK(matrix.codes == std::vector<uint8_t>{0, 1, 2, 3, 3, 3, 1, 2});
    CHECK(matrix.zeros[0] == 2);
    double error = 0;
    const std::vector<float> got = dequantized(matrix, 0);
    for (size_t k = 0; k < 8; ++k) error += (got[k] - nested[k]) * (got[k] - nested[k]) / 8;
    CHECK(error == doctest::Approx(expected[planes]).epsilon(0.02));  // the scales are f16 here
  }
  CHECK(matrix.planes[0].bits == std::vector<uint8_t>{1, 1, 1, 0, 0, 1, 0, 1});
  CHECK(matrix.planes[1].bits == std::vector<uint8_t>{1, 1, 0, 0, 1, 1, 1, 1});
}

TEST_CASE("round to nearest keeps every weight within the format's bound") {
  std::mt19937 random(5);
  for (WeightFormat format : kQuantized) {
    if (format == WeightFormat::WN) continue;
    for (int codebook = 0; codebook < (format == WeightFormat::W4C ? 2 : 1); ++codebook) {
      for (bool asymmetric : {false, true}) {
        if (asymmetric && !format_info(format)->asymmetric) continue;
        for (float scale : {1.0f, 1e-6f, 3e4f}) {
          const std::vector<float> w = random_weights(random, 8 * 640, scale);
          RtnOptions options;
          options.asymmetric = asymmetric;
          options.codebook = codebook;
          QuantizedMatrix matrix;
          REQUIRE(quantize_rtn(source_of(w, 8), format, options, &matrix).ok());
          int beyond = 0;
          for (int64_t row = 0; row < 8; ++row) {
            const std::vector<float> got = dequantized(matrix, row);
            for (int64_t k = 0; k < 640; ++k) {
              const double value = w[static_cast<size_t>(row * 640 + k)];
              const double step = static_cast<double>(matrix.mul) *
                                  matrix.scales[static_cast<size_t>(row * matrix.groups() + k / matrix.group)];
              beyond += std::fabs(got[static_cast<size_t>(k)] - value) >
                        format_info(format)->bound(value, step, asymmetric) + std::fabs(value) * 1e-6;
            }
          }
          INFO(weight_format_name(format));
          CAPTURE(codebook);
          CAPTURE(asymmetric);
          CAPTURE(scale);
          CHECK(beyond == 0);
        }
      }
    }
  }
}

TEST_CASE("relative error on Gaussian weights is the published one") {
  std::mt19937 random(6);
  const std::vector<float> w = random_weights(random, 256 * 1280, 1);
  double norm = 0;
  for (float value : w) norm += static_cast<double>(value) * value;
  const struct {
    WeightFormat format;
    int64_t group;
    bool asymmetric;
    double expected;
  } cases[] = {{WeightFormat::W8, 128, false, 0.0065}, {WeightFormat::W8, 128, true, 0.0059},
               {WeightFormat::W4, 32, false, 0.097},   {WeightFormat::W4, 64, false, 0.107},
               {WeightFormat::W4, 128, false, 0.117},  {WeightFormat::W4, 64, true, 0.091},
               {WeightFormat::W3, 64, false, 0.252},   {WeightFormat::W3, 128, true, 0.216},
               {WeightFormat::W2, 64, false, 0.714},   {WeightFormat::W2, 64, true, 0.457},
               {WeightFormat::T2, 0, false, 0.4345},   {WeightFormat::W4C, 32, false, 0.112}};
  for (const auto& one : cases) {
    QuantizedMatrix matrix;
    REQUIRE(quantize_rtn(source_of(w, 256), one.format, one.group, one.asymmetric, &matrix).ok());
    double error = 0;
    for (int64_t row = 0; row < 256; ++row) {
      const std::vector<float> got = dequantized(matrix, row);
      for (size_t k = 0; k < 1280; ++k) {
        const double difference = got[k] - w[static_cast<size_t>(row) * 1280 + k];
        error += difference * difference;
      }
    }
    INFO(weight_format_name(one.format));
    CAPTURE(one.group);
    CAPTURE(one.asymmetric);
    CHECK(std::sqrt(error / norm) == doctest::Approx(one.expected).epsilon(0.03));
  }
}

TEST_CASE("zero groups, and sources that are not finite") {
  QuantizedMatrix matrix;
  for (WeightFormat format : kQuantized) {
    if (format == WeightFormat::W1) continue;  // has no zero
    REQUIRE(quantize_rtn(source_of(std::vector<float>(640, 0.0f), 2), format, 0, false, &matrix).ok());
    for (float value : dequantized(matrix, 1)) CHECK(value == 0.0f);
  }
  for (float odd : {NAN, INFINITY}) {
    CHECK(quantize_rtn(source_of({0, odd, 1, 2}, 1), WeightFormat::W4, 0, false, &matrix).code() ==
          Code::NonFiniteInput);
  }
  CHECK(quantize_rtn(source_of({0, 1, 1, 2}, 1), WeightFormat::BF16, 0, false, &matrix).code() ==
        Code::InvalidArgument);
  CHECK(quantize_rtn(source_of({0, 1, 1, 2}, 1), WeightFormat::W4, 3, false, &matrix).code() ==
        Code::InvalidQuantization);
}

TEST_CASE("corrupt matrices are refused") {
  std::mt19937 random(7);
  const auto refused = [&](WeightFormat format, void (*damage)(QuantizedMatrix*)) {
    QuantizedMatrix matrix = random_codes(random, format, 4, 640, 640, false);
    matrix.planes.clear();
    REQUIRE(validate(matrix).ok());
    damage(&matrix);
    PackedMatrix packed;
    CHECK(pack_quantized(matrix, &packed).code() == Code::InvalidQuantization);
    CHECK(packed.empty());
  };
  for (WeightFormat format : kQuantized) {
    refused(format, [](QuantizedMatrix* m) { m->codes.pop_back(); });
    refused(format, [](QuantizedMatrix* m) { m->scales.push_back(1); });
    refused(format, [](QuantizedMatrix* m) { m->scales[1] = NAN; });
    refused(format, [](QuantizedMatrix* m) { m->scales[1] = INFINITY; });
    refused(format, [](QuantizedMatrix* m) { m->scales[1] = 0; });
    refused(format, [](QuantizedMatrix* m) { m->mul = 0; });
    refused(format, [](QuantizedMatrix* m) { m->mul = 3e38f, m->scales[0] = 100; });
    refused(format, [](QuantizedMatrix* m) { m->group = 0; });
    refused(format, [](QuantizedMatrix* m) { m->group = 1280; });
    refused(format, [](QuantizedMatrix* m) { m->group = 3; });
    refused(format, [](QuantizedMatrix* m) { m->group = 2; });
    refused(format, [](QuantizedMatrix* m) { m->rows = -1; });
    refused(format, [](QuantizedMatrix* m) { m->rows = int64_t{1} << 39, m->cols = m->group = int64_t{1} << 39; });
    refused(format, [](QuantizedMatrix* m) { m->codebook = 3; });
    refused(format, [](QuantizedMatrix* m) { m->format = WeightFormat::BF16; });
    refused(format, [](QuantizedMatrix* m) { m->format = WeightFormat(77); });
    refused(format, [](QuantizedMatrix* m) { m->zeros.assign(3, 1.0f); });
    refused(format, [](QuantizedMatrix* m) { m->zeros.assign(4, NAN); });
    refused(format, [](QuantizedMatrix* m) { m->planes.resize(7); });
    refused(format, [](QuantizedMatrix* m) { m->planes.resize(1); });
    if (format_info(format)->max_code < 255) {
      refused(format,
              [](QuantizedMatrix* m) { m->codes[7] = static_cast<uint8_t>(format_info(m->format)->max_code + 1); });
    }
  }
  refused(WeightFormat::F8, [](QuantizedMatrix* m) { m->codes[7] = 0xff; });
  QuantizedMatrix wide = codes_only(WeightFormat::T2, 1, 65537);
  CHECK(validate(wide).code() == Code::InvalidQuantization);
  QuantizedMatrix e8m0 = codes_only(WeightFormat::W4C, 1, 32);
  e8m0.scales[0] = std::ldexp(1.0f, -127);  // E8M0 byte 0
  CHECK(validate(e8m0).ok());
}

TEST_CASE("names lead back to formats") {
  for (int i = 0; i < kWeightFormats; ++i) {
    WeightFormat format = WeightFormat::F32;
    CHECK(weight_format_of(weight_format_name(WeightFormat(i)), &format));
    CHECK(format == WeightFormat(i));
  }
  WeightFormat untouched = WeightFormat::T5;
  CHECK(!weight_format_of("w5", &untouched));
  CHECK(untouched == WeightFormat::T5);
}
