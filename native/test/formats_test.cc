#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <vector>

#include "formats/packed_matrix.h"

using namespace smoe;

namespace {

struct Source {
  std::vector<unsigned char> bytes;
  std::vector<float> values;  // as f32, row-major
  MatrixSource matrix;
};

// offset 1 makes the data unaligned, as a tensor in a mapped file may be.
Source random_source(Dtype dtype, int64_t rows, int64_t cols, uint32_t seed) {
  Source source;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const size_t count = static_cast<size_t>(rows * cols);
  source.bytes.resize(count * dtype_bytes(dtype) + 1);
  source.values.resize(count);
  for (float& value : source.values) value = normal(random);
  from_f32(source.values.data(), count, dtype, source.bytes.data() + 1);
  to_f32(source.bytes.data() + 1, dtype, count, source.values.data());
  source.matrix = {source.bytes.data() + 1, dtype, rows, cols};
  return source;
}

}  // namespace

TEST_CASE("packing and unpacking gives every value back, and the padding is zero") {
  const int64_t shapes[][2] = {{1, 1}, {16, 2}, {17, 3}, {33, 127}, {48, 128}, {5, 257}, {31, 512}, {100, 515}};
  for (const auto& shape : shapes) {
    const int64_t rows = shape[0], cols = shape[1];
    for (Dtype dtype : {Dtype::F32, Dtype::F16, Dtype::BF16}) {
      const Source source = random_source(dtype, rows, cols, 7);
      for (WeightFormat format : {WeightFormat::F32, WeightFormat::BF16}) {
        CAPTURE(rows);
        CAPTURE(cols);
        PackedMatrix packed;
        REQUIRE(pack(source.matrix, format, &packed).ok());
        CHECK(packed.bytes() >= static_cast<size_t>(packed.tiles()) * packed.tile_bytes());
        int wrong = 0;
        std::vector<float> row(static_cast<size_t>(cols));
        for (int64_t r = 0; r < rows; ++r) {
          unpack_row(packed, r, row.data());
          for (int64_t k = 0; k < cols; ++k) {
            const float value = source.values[static_cast<size_t>(r * cols + k)];
            const float expected = format == WeightFormat::BF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
            wrong += row[static_cast<size_t>(k)] != expected;
          }
        }
        CHECK(wrong == 0);
        // Padding: everything that is not a matrix element, by counting the non-zero words of the whole tiles.
        int64_t set = 0, expected_set = 0;
        const size_t element = format == WeightFormat::BF16 ? 2 : 4;
        for (size_t i = 0; i < static_cast<size_t>(packed.tiles()) * packed.tile_bytes(); i += element) {
          uint32_t word = 0;
          std::memcpy(&word, packed.tile(0) + i, element);
          set += (word << 1) != 0 && word != 0x8000u;
        }
        for (float value : source.values) {
          expected_set += (format == WeightFormat::BF16 ? bf16_to_f32(f32_to_bf16(value)) : value) != 0.0f;
        }
        CHECK(set == expected_set);
      }
    }
  }
}

TEST_CASE("the layout is the documented one") {
  const Source source = random_source(Dtype::BF16, 40, 10, 3);
  PackedMatrix packed;
  REQUIRE(pack(source.matrix, natural_format(Dtype::BF16), &packed).ok());
  CHECK(packed.format == WeightFormat::BF16);
  CHECK(packed.chunks() == 5);
  uint16_t value;
  std::memcpy(&value, packed.tile(1) + 3 * 64 + 4 * 4 + 2, 2);  // row 20, column 7
  CHECK(bf16_to_f32(value) == source.values[20 * 10 + 7]);
  REQUIRE(pack(source.matrix, WeightFormat::F32, &packed).ok());
  float wide;
  std::memcpy(&wide, packed.tile(2) + 9 * 64 + 7 * 4, 4);  // row 39, column 9
  CHECK(wide == source.values[39 * 10 + 9]);
  CHECK(natural_format(Dtype::F16) == WeightFormat::F32);
  CHECK(std::strcmp(weight_format_name(WeightFormat::BF16), "bf16") == 0);
}

TEST_CASE("impossible matrices are refused") {
  PackedMatrix packed;
  CHECK(allocate_packed(0, 4, WeightFormat::F32, &packed).code() == Code::InvalidArgument);
  CHECK(allocate_packed(4, -1, WeightFormat::F32, &packed).code() == Code::InvalidArgument);
  CHECK(allocate_packed(int64_t{1} << 62, 4, WeightFormat::F32, &packed).code() == Code::InvalidArgument);
  CHECK(allocate_packed(int64_t{1} << 40, int64_t{1} << 40, WeightFormat::BF16, &packed).code() == Code::OutOfMemory);
  CHECK(packed.empty());
  const int32_t integers[4] = {};
  CHECK(pack({integers, Dtype::I32, 2, 2}, WeightFormat::F32, &packed).code() == Code::DtypeMismatch);
}
