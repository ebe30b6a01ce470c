#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "kernels/kernel_table.h"
#include "layer/tile_pairs.h"
#include "quant_support.h"

using namespace smoe;
using namespace smoe_test;

namespace {

constexpr double kU = 1.0 / (1 << 24);

PackedMatrix packed(const QuantizedMatrix& matrix) {
  PackedMatrix out;
  const Status status = pack_quantized(matrix, &out);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return out;
}

std::vector<float> dequantized(const QuantizedMatrix& matrix) {
  std::vector<float> out(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t row = 0; row < matrix.rows; ++row) dequantize_row(matrix, row, out.data() + row * matrix.cols);
  return out;
}

std::vector<float> normal_rows(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = normal(random);
  return out;
}

struct Block {
  RowLayout layout;
  std::vector<uint32_t> words;
  int m;
  const float* x_scale() const { return reinterpret_cast<const float*>(words.data()) + layout.padded * m / 4; }
  const int32_t* x_sum() const { return reinterpret_cast<const int32_t*>(x_scale() + layout.groups * m); }
};

Block pack_block(const KernelTable& table, const PackedMatrix& matrix, Precision precision, const float* x,
                 const std::vector<int>& rows) {
  Block block;
  block.layout = row_layout(matrix, precision);
  block.m = static_cast<int>(rows.size());
  block.words.resize(block.layout.row_bytes() * rows.size() / 4 + 16);
  std::vector<const float*> pointers;
  for (int row : rows) pointers.push_back(x + row * matrix.cols);
  pack_rows(table, block.layout, pointers.data(), nullptr, block.m, block.words.data());
  return block;
}

std::vector<float> run(const KernelTable& table, const PackedMatrix& matrix, const Block& block, bool pair) {
  std::vector<float> out(static_cast<size_t>(block.m + 1) * kOutStride, -7.0f);
  TilePairs tiles(table, block.layout, matrix, &matrix, out.data());
  tiles.set_rows(block.words.data(), block.m);
  tiles.run(0, pair && matrix.tiles() > 1 ? 1 : -1);
  for (int i = 0; i < kOutStride; ++i) CHECK(out[static_cast<size_t>(block.m) * kOutStride + i] == -7.0f);
  return out;
}

// What the fast kernel of this layout sees of x.
double seen(const Block& block, const float* x, int row, int64_t k) {
  if (block.layout.kind == RowKind::F32) return x[k];
  if (block.layout.kind == RowKind::Bf16) return bf16_to_f32(f32_to_bf16(x[k]));
  const int8_t code = reinterpret_cast<const int8_t*>(block.words.data())[(k / 4 * block.m + row) * 4 + k % 4];
  return static_cast<double>(code) * block.x_scale()[k / block.layout.group * block.m + row];
}

}  // namespace

TEST_CASE("quantized tiles agree with the double reference; a row's bits depend neither on its batch nor on the pair") {
  std::mt19937 random(1);
  const KernelTable& table = *kernels();
  const int max_rows = table.max_rows;
  for (WeightFormat format : kQuantized) {
    for (int64_t k : {int64_t{320}, int64_t{7}, int64_t{50}, int64_t{384}}) {
      for (int64_t group : groups_of(format, k)) {
        for (bool asymmetric : {false, true}) {
          if (asymmetric && !format_info(format)->asymmetric) continue;
          const int64_t n = random() % 2 == 0 ? 32 : 27;
          const QuantizedMatrix source = random_codes(random, format, n, k, group, asymmetric);
          const PackedMatrix matrix = packed(source);
          const std::vector<float> w = dequantized(source), x = normal_rows(random, max_rows * k);
          for (Precision precision : {Precision::Exact, Precision::Fast}) {
            INFO(weight_format_name(format) << (precision == Precision::Exact ? " exact" : " fast"));
            CAPTURE(k);
            CAPTURE(group);
            CAPTURE(asymmetric);
            std::vector<float> alone;
            int wrong = 0, beyond = 0, different = 0;
            for (int row = 0; row < max_rows; ++row) {
              const Block block = pack_block(table, matrix, precision, x.data(), {row});
              const std::vector<float> out = run(table, matrix, block, true);
              alone.insert(alone.end(), out.begin(), out.begin() + kOutStride);
              for (int64_t column = 0; column < n; ++column) {
                double sum = 0, magnitude = 0, plain = 0, allowed = 0;
                for (int64_t i = 0; i < k; ++i) {
                  const double weight = w[static_cast<size_t>(column * k + i)];
                  const double value = seen(block, x.data() + row * k, 0, i),
                               real = x[static_cast<size_t>(row * k + i)];
                  sum += weight * value;
                  magnitude += std::fabs(weight * value);
                  plain += weight * real;
                  if (block.layout.kind == RowKind::Int8) {
                    allowed += 0.5 * block.x_scale()[i / group] * std::fabs(weight);
                  }
                }
                const double got = out[static_cast<size_t>(column)];
                // f32 rounding: k + groups steps, four more per weight for its own dequantization; with a zero point
                // the terms code * x and zero * x are larger than their difference, by 256 at most. NF4 in bf16: 2^-9.
                const double eps = (static_cast<double>(k) + 8) * kU * magnitude * 2 * (asymmetric ? 8 : 1) + 1e-5 +
                                   (source.codebook == 2 && precision == Precision::Fast ? magnitude / 512 : 0);
                wrong += !(std::fabs(got - sum) <= eps);
                if (block.layout.kind == RowKind::Int8) beyond += !(std::fabs(got - plain) <= allowed * 1.0001 + eps);
              }
              for (int64_t column = n; column < 32; ++column) wrong += out[static_cast<size_t>(column)] != 0.0f;
            }
            CHECK(wrong == 0);
            CHECK(beyond == 0);
            for (int m = 1; m <= max_rows; ++m) {
              std::vector<int> rows;
              for (int i = 0; i < m; ++i) rows.push_back(max_rows - 1 - i);
              const Block block = pack_block(table, matrix, precision, x.data(), rows);
              for (bool pair : {false, true}) {
                const std::vector<float> out = run(table, matrix, block, pair);
                for (int i = 0; i < m; ++i) {
                  different +=
                      std::memcmp(out.data() + i * kOutStride, alone.data() + rows[static_cast<size_t>(i)] * kOutStride,
                                  pair ? 128 : 64) != 0;
                }
              }
            }
            CHECK(different == 0);
          }
        }
      }
    }
  }
}

// With scales of 1 a result is the integer sum itself, which f32 holds exactly below 2^24.
TEST_CASE("integer sums are exact under every instruction set, also for extreme codes and activations") {
  std::mt19937 random(2);
  for (WeightFormat format : kQuantized) {
    if (!format_info(format)->int8_rows || format == WeightFormat::WN) continue;
    for (int kind = 0; kind < 4; ++kind) {
      constexpr int64_t n = 32, k = 640;
      QuantizedMatrix source = random_codes(random, format, n, k, k, false);
      source.mul = 1;
      std::fill(source.scales.begin(), source.scales.end(), 1.0f);
      if (kind == 1) std::fill(source.codes.begin(), source.codes.end(), format_info(format)->max_code);
      if (kind == 2) std::fill(source.codes.begin(), source.codes.end(), 0);
      std::vector<float> x(static_cast<size_t>(k));
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] = kind == 0                 ? static_cast<float>(static_cast<int>(random() % 255) - 127)
               : i % 2 == 0 || kind == 3 ? 127.0f
                                         : -127.0f;
      }
      x[0] = 127;  // so that the scale is 1
      if (kind == 3) x[1] = -127;
      const std::vector<float> w = dequantized(source);
      const PackedMatrix matrix = packed(source);
      const Block block = pack_block(*kernels(), matrix, Precision::Fast, x.data(), {0});
      CHECK(block.x_scale()[0] == 1.0f);
      const std::vector<float> out = run(*kernels(), matrix, block, true);
      int wrong = 0;
      for (int64_t column = 0; column < n; ++column) {
        int64_t sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          sum += static_cast<int64_t>(w[static_cast<size_t>(column * k + i)]) *
                 static_cast<int64_t>(x[static_cast<size_t>(i)]);
        }
        wrong += out[static_cast<size_t>(column)] != static_cast<float>(sum);
      }
      INFO(weight_format_name(format));
      CAPTURE(kind);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("ternary rows by hand") {
  QuantizedMatrix source;
  source.rows = 2;
  source.cols = source.group = 8;
  source.codes = {2, 1, 2, 0, 1, 2, 0, 1, 1, 0, 2, 2, 1, 0, 2, 1};
  source.scales = {0.43125f, 0.43125f};
  const std::vector<float> x = {1, -2, .5f, .25f, -.75f, 3, -1.5f, .125f};
  const int8_t expected[] = {42, -85, 21, 11, -32, 127, -64, 5};
  for (WeightFormat format : {WeightFormat::T2, WeightFormat::T5}) {
    source.format = format;
    const PackedMatrix matrix = packed(source);
    const Block block = pack_block(*kernels(), matrix, Precision::Fast, x.data(), {0});
    CHECK(std::memcmp(block.words.data(), expected, 8) == 0);
    CHECK(block.x_sum()[0] == 25);
    const std::vector<float> y = run(*kernels(), matrix, block, false);
    CHECK(y[0] == doctest::Approx(2.475443).epsilon(1e-6));
    CHECK(y[1] == doctest::Approx(-0.753839).epsilon(1e-6));
  }
  // the digits of the byte (2, 0, 1, 2, 2) are columns 0, 4, 8, 12, 16 of a row
  QuantizedMatrix trits;
  trits.format = WeightFormat::T5;
  trits.rows = 1;
  trits.cols = trits.group = 20;
  trits.codes.assign(20, 1);
  trits.scales = {1};
  const uint8_t digits[] = {2, 0, 1, 2, 2};
  for (size_t p = 0; p < 5; ++p) trits.codes[4 * p] = digits[p];
  CHECK(packed(trits).tile(0)[0] == 227);
}

TEST_CASE("a row of 65536 columns does not overflow") {
  constexpr int64_t k = 65536;
  for (WeightFormat format : {WeightFormat::W8, WeightFormat::T2}) {
    QuantizedMatrix source;
    source.format = format;
    source.rows = 1;
    source.cols = source.group = k;
    source.codes.assign(k, 0);  // -128 and -1
    source.scales = {1.0f};
    const PackedMatrix matrix = packed(source);
    const std::vector<float> x(k, 127.0f);
    const Block block = pack_block(*kernels(), matrix, Precision::Fast, x.data(), {0});
    const double expected = (format == WeightFormat::W8 ? -128.0 : -1.0) * 127 * k;
    CHECK(run(*kernels(), matrix, block, false)[0] == static_cast<float>(expected));
  }
}

TEST_CASE("int8 rows: scale, nearest even, sums; zero, tiny and not finite groups") {
  constexpr int64_t k = 70, padded = 72;
  const KernelTable& table = *kernels();
  std::mt19937 random(3);
  std::vector<float> x = normal_rows(random, k);
  std::vector<uint8_t> codes(padded);
  float scale[2];
  int32_t sum[2];
  const float* row = x.data();
  // groups that are no multiple of 4 exist only as whole rows
  table.pack_rows_int8(&row, nullptr, 1, k, padded, k, codes.data(), scale, sum);
  float amax = 0;
  for (float value : x) amax = std::max(amax, std::fabs(value));
  CHECK(scale[0] == amax / 127.0f);
  int32_t total = 0;
  for (int64_t i = 0; i < padded; ++i) {
    const int8_t code = static_cast<int8_t>(codes[static_cast<size_t>(i)]);
    total += code;
    CHECK(code == (i < k ? std::nearbyint(x[static_cast<size_t>(i)] * (127.0f / amax)) : 0));
  }
  CHECK(sum[0] == total);
  for (float odd : {NAN, INFINITY, -INFINITY}) {
    x[40] = odd;
    table.pack_rows_int8(&row, nullptr, 1, k, padded, 36, codes.data(), scale, sum);
    CHECK(std::isfinite(scale[0]));
    CHECK(std::isnan(scale[1]));
  }
  for (float small : {0.0f, 1e-40f, -1e-31f}) {
    std::fill(x.begin(), x.end(), small);
    table.pack_rows_int8(&row, nullptr, 1, k, padded, k, codes.data(), scale, sum);
    CHECK(scale[0] == 0.0f);
    CHECK(sum[0] == 0);
  }
}
