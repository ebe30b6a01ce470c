// Views and coded matrices against formulas written from specs/quantization.md 1.3 and 1.4.
#include "formats/matrix_source.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "formats/packed_matrix.h"

using namespace smoe;

namespace {

double e4m3(int code) {
  const int exponent = code / 8 % 16, mantissa = code % 8;
  const double magnitude = exponent == 0 ? mantissa / 512.0 : (1 + mantissa / 8.0) * std::pow(2.0, exponent - 7);
  return code >= 128 ? -magnitude : magnitude;
}

// Codes and scales of a random matrix, unaligned as they may lie in a file, and what they stand for.
struct Coded {
  std::vector<unsigned char> codes, scales;
  std::vector<float> values;  // stored matrix, row by row
  MatrixSource source;
};

Coded random_coded(Coding coding, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                   Dtype scale_dtype) {
  Coded out;
  std::mt19937 random(static_cast<unsigned>(rows * 131 + cols));
  const int64_t down = (rows + block_rows - 1) / block_rows, across = (cols + block_cols - 1) / block_cols;
  out.scales.resize(static_cast<size_t>(down * across) * dtype_bytes(scale_dtype) + 1);
  std::vector<double> scale;
  for (int64_t i = 0; i < down * across; ++i) {
    unsigned char* at = out.scales.data() + 1 + static_cast<size_t>(i) * dtype_bytes(scale_dtype);
    if (scale_dtype == Dtype::U8) {
      *at = static_cast<unsigned char>(100 + random() % 60);
      scale.push_back(std::pow(2.0, *at - 127));
    } else {
      float value = 0.01f + static_cast<float>(random() % 1000) / 300;
      from_f32(&value, 1, scale_dtype, at);
      to_f32(at, scale_dtype, 1, &value);
      scale.push_back(value);
    }
  }
  const double magnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  out.codes.resize(static_cast<size_t>(rows * cols) + 1);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t at = i * cols + j;
      int code = static_cast<int>(random() % 256);
      double value;
      if (coding == Coding::Mxfp4) {
        code %= 16;
        out.codes[static_cast<size_t>(1 + at / 2)] |= static_cast<unsigned char>(at % 2 == 0 ? code : code << 4);
        value = code < 8 ? magnitudes[code] : -magnitudes[code - 8];
      } else {
        if (code % 128 == 127) --code;  // NaN
        out.codes[static_cast<size_t>(1 + at)] = static_cast<unsigned char>(code);
        value = e4m3(code);
      }
      out.values.push_back(
          static_cast<float>(value * scale[static_cast<size_t>(i / block_rows * across + j / block_cols)]));
    }
  }
  out.source.data = out.codes.data() + 1;
  out.source.rows = rows;
  out.source.cols = out.source.stored_cols = cols;
  out.source.coding = coding;
  out.source.scales = {out.scales.data() + 1, scale_dtype, block_rows, block_cols};
  return out;
}

// Reads the view in pieces and compares with the stored values.
void check_view(const MatrixSource& view, const std::vector<float>& stored) {
  std::vector<float> row(static_cast<size_t>(view.cols));
  int wrong = 0;
  for (int64_t r = 0; r < view.rows; ++r) {
    for (int64_t c = 0; c < view.cols;) {
      const int64_t count = std::min<int64_t>(view.cols - c, 1 + (r + c) % 37);
      read_elements(view, r, c, count, row.data() + c);
      c += count;
    }
    const int64_t stride = view.row_stride == 0 ? view.cols : view.row_stride;
    for (int64_t c = 0; c < view.cols; ++c)
      wrong +=
          row[static_cast<size_t>(c)] != stored[static_cast<size_t>(view.first + r * stride + c * view.col_stride)];
  }
  CHECK(wrong == 0);
}

// The whole, a run of rows, every second row, and the transposes of these.
void check_views(MatrixSource whole, const std::vector<float>& stored) {
  const int64_t n = whole.rows, k = whole.cols;
  check_view(whole, stored);
  for (const auto& [first_row, step] : {std::pair<int64_t, int64_t>{0, 1}, {n / 3, 1}, {0, 2}, {1, 2}}) {
    MatrixSource view = whole;
    view.first = first_row * k;
    view.rows = (n - first_row) / step;
    if (view.rows == 0) continue;
    view.row_stride = step * k;
    check_view(view, stored);
    std::swap(view.rows, view.cols);
    std::swap(view.row_stride, view.col_stride);
    check_view(view, stored);
  }
}

}  // namespace

TEST_CASE("coded matrices and their views") {
  struct Case {
    Coding coding;
    int64_t rows, cols, block_rows, block_cols;
    Dtype scales;
  };
  for (const Case& c : {Case{Coding::F8E4M3, 192, 160, 128, 128, Dtype::F32},
                        {Coding::F8E4M3, 37, 300, 16, 128, Dtype::BF16},
                        {Coding::F8E4M3, 5, 7, 128, 128, Dtype::F16},
                        {Coding::F8E4M3, 130, 33, 128, 32, Dtype::U8},
                        {Coding::Mxfp4, 20, 96, 1, 32, Dtype::U8},
                        {Coding::Mxfp4, 3, 2880, 1, 32, Dtype::U8}}) {
    const Coded coded = random_coded(c.coding, c.rows, c.cols, c.block_rows, c.block_cols, c.scales);
    CAPTURE(c.rows);
    CHECK(check_scales(coded.source).ok());
    check_views(coded.source, coded.values);

    const bool mxfp4 = c.coding == Coding::Mxfp4;
    CHECK(natural_format(coded.source, true) == (mxfp4 ? WeightFormat::BF16 : WeightFormat::F32));
    CHECK(natural_format(coded.source, false) == WeightFormat::BF16);
    for (const bool exact : {true, false}) {
      PackedMatrix packed;
      REQUIRE(pack(coded.source, natural_format(coded.source, exact), &packed).ok());
      std::vector<float> row(static_cast<size_t>(c.cols));
      int wrong = 0;
      for (int64_t r = 0; r < c.rows; ++r) {
        unpack_row(packed, r, row.data());
        for (int64_t k = 0; k < c.cols; ++k) {
          const float value = coded.values[static_cast<size_t>(r * c.cols + k)];
          wrong += row[static_cast<size_t>(k)] != (exact || mxfp4 ? value : bf16_to_f32(f32_to_bf16(value)));
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("views of plain matrices, packed") {
  const int64_t n = 40, k = 26;
  std::vector<float> stored;
  for (int64_t i = 0; i < n * k; ++i) stored.push_back(static_cast<float>(i % 251));  // exact in bf16
  for (const Dtype dtype : {Dtype::F32, Dtype::F16, Dtype::BF16}) {
    std::vector<unsigned char> bytes(stored.size() * dtype_bytes(dtype));
    from_f32(stored.data(), stored.size(), dtype, bytes.data());
    check_views({bytes.data(), dtype, n, k}, stored);
    // Gate of a fused gate_up [in, 2 * out] with interleaved columns, as gpt-oss stores it.
    MatrixSource gate{bytes.data(), dtype, k / 2, n};
    gate.row_stride = 2;
    gate.col_stride = k;
    PackedMatrix packed;
    REQUIRE(pack(gate, natural_format(gate, true), &packed).ok());
    std::vector<float> row(static_cast<size_t>(n));
    unpack_row(packed, 7, row.data());
    for (int64_t c = 0; c < n; ++c) CHECK(row[static_cast<size_t>(c)] == stored[static_cast<size_t>(c * k + 14)]);
  }
}

TEST_CASE("scales that would poison or erase a block are refused, where the view uses them") {
  const float bad[] = {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  for (const float value : bad) {
    Coded coded = random_coded(Coding::F8E4M3, 64, 64, 16, 32, Dtype::F32);
    std::memcpy(coded.scales.data() + 1 + 5 * sizeof(float), &value, sizeof value);
    const Status status = check_scales(coded.source);
    CHECK(status.code() == Code::InvalidQuantization);
    CHECK(status.message().find("scale [2, 1] must be finite and above 0") == 0);
    coded.source.rows = 32;
    CHECK(check_scales(coded.source).ok());
  }
  Coded coded = random_coded(Coding::Mxfp4, 4, 64, 1, 32, Dtype::U8);
  coded.scales[1 + 6] = 255;
  CHECK(check_scales(coded.source).code() == Code::InvalidQuantization);
  coded.scales[1 + 6] = 0;  // 2^-127: small, but a number
  CHECK(check_scales(coded.source).ok());
}

TEST_CASE("published examples of both codings") {
  const float scale = 0.5f / 448;
  const unsigned char e4m3_codes[] = {0x59, 0xFE, 0x6E, 0x78};
  MatrixSource source{e4m3_codes, Dtype::F32, 1, 4};
  source.coding = Coding::F8E4M3;
  source.stored_cols = 4;
  source.scales = {&scale, Dtype::F32, 128, 128};
  float out[8];
  read_elements(source, 0, 0, 4, out);
  const double expected[] = {0.02008929, -0.5, 0.125, 0.28571429};
  for (int i = 0; i < 4; ++i) CHECK(out[i] == doctest::Approx(expected[i]).epsilon(1e-7));

  const unsigned char bytes[] = {0x90, 0x15, 0x0B, 0xF6}, exponent = 127;
  source.data = bytes;
  source.cols = source.stored_cols = 8;
  source.coding = Coding::Mxfp4;
  source.scales = {&exponent, Dtype::U8, 1, 32};
  read_elements(source, 0, 0, 8, out);
  const float values[] = {0, -0.5f, 3, 0.5f, -1.5f, 0, 4, -6};
  for (int i = 0; i < 8; ++i) CHECK(out[i] == values[i]);
}
