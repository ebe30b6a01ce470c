#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "formats/packed_matrix.h"
#include "kernels/experts/reference.h"
#include "kernels/kernel_table.h"

using namespace smoe;

namespace {

constexpr double kEps = 1.0 / (1 << 24);  // half an ulp of 1: the error of one rounding

struct Variant {
  const char* name;
  WeightFormat format;
  bool bf16_rows;
  TileFn run;
};

std::vector<Variant> variants() {
  const KernelTable& table = *kernels();
  return {{"bf16 exact", WeightFormat::BF16, false, table.tile[1][0]},
          {"bf16 fast", WeightFormat::BF16, true, table.tile[1][1]},
          {"f32", WeightFormat::F32, false, table.tile[0][0]}};
}

std::vector<float> random_values(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// m rows of x, packed; the words after the last are canaries that a kernel must leave alone.
struct Packed {
  std::vector<uint32_t> words;
  size_t used = 0;
  bool intact() const {
    return std::all_of(words.begin() + static_cast<long>(used), words.end(),
                       [](uint32_t w) { return w == 0xdeadbeefu; });
  }
};

Packed packed_room(size_t words) {
  Packed packed;
  packed.words.assign(words + 64, 0xdeadbeefu);
  packed.used = words;
  return packed;
}

Packed pack_x(const Variant& variant, const float* x, const std::vector<int>& rows, const float* scale, int64_t k,
              int64_t padded_k) {
  std::vector<const float*> pointers;
  for (int row : rows) pointers.push_back(x + row * k);
  const int m = static_cast<int>(rows.size());
  Packed packed = packed_room(static_cast<size_t>(m * padded_k) / (variant.bf16_rows ? 2 : 1));
  if (variant.bf16_rows) {
    kernels()->pack_rows_bf16(pointers.data(), scale, m, k, padded_k, packed.words.data());
  } else {
    kernels()->pack_rows_f32(pointers.data(), scale, m, k, padded_k, reinterpret_cast<float*>(packed.words.data()));
  }
  return packed;
}

TileArgs call(const void* w0, const void* w1, const void* x, int64_t chunks, int m, float* out) {
  TileArgs args;
  args.w0 = w0;
  args.w1 = w1;
  args.x = x;
  args.chunks = chunks;
  args.m = m;
  args.out = out;
  return args;
}

}  // namespace

TEST_CASE("tiles agree with the double reference, and a row's bits depend neither on its batch nor on the pair") {
  const int max_rows = kernels()->max_rows;
  const int64_t shapes[][2] = {{32, 64}, {17, 1}, {32, 2}, {9, 33}, {27, 515}, {32, 1000}};
  for (const Variant& variant : variants()) {
    for (const auto& shape : shapes) {
      const int64_t n = shape[0], k = shape[1];
      INFO(variant.name);
      CAPTURE(n);
      CAPTURE(k);
      std::vector<float> w = random_values(static_cast<size_t>(n * k), 1);
      if (variant.format == WeightFormat::BF16) {
        for (float& value : w) value = bf16_to_f32(f32_to_bf16(value));
      }
      PackedMatrix matrix;
      REQUIRE(pack({w.data(), Dtype::F32, n, k}, variant.format, &matrix).ok());
      const std::vector<float> x = random_values(static_cast<size_t>(max_rows * k), 2);
      std::vector<float> x_seen = x;
      if (variant.bf16_rows) {
        for (float& value : x_seen) value = bf16_to_f32(f32_to_bf16(value));
      }
      std::vector<double> y(static_cast<size_t>(max_rows * n)), magnitude(y.size());
      reference::linear(w.data(), n, k, x_seen.data(), max_rows, y.data(), magnitude.data());

      const int64_t padded_k = matrix.chunks() * matrix.chunk_cols();
      const void* w1 = matrix.tiles() > 1 ? matrix.tile(1) : nullptr;
      std::vector<float> alone(static_cast<size_t>(max_rows) * kOutStride);
      for (int row = 0; row < max_rows; ++row) {
        const Packed packed = pack_x(variant, x.data(), {row}, nullptr, k, padded_k);
        variant.run(call(matrix.tile(0), w1, packed.words.data(), matrix.chunks(), 1, alone.data() + row * kOutStride));
        for (int64_t column = 0; column < n; ++column) {
          const size_t at = static_cast<size_t>(row * n + column);
          const double got = alone[static_cast<size_t>(row * kOutStride + column)];
          // k products and k additions, one rounding each at most: the standard bound for a sequential sum.
          const double bound = static_cast<double>(k + 1) * kEps * 1.01 * magnitude[at] + 1e-37;
          if (!(std::fabs(got - y[at]) <= bound)) {
            CAPTURE(row);
            CAPTURE(column);
            CHECK(got == doctest::Approx(y[at]));
          }
        }
        for (int64_t column = n; column < (w1 != nullptr ? 32 : 16); ++column) {
          CHECK(alone[static_cast<size_t>(row * kOutStride + column)] == 0.0f);
        }
      }
      for (int m = 1; m <= max_rows; ++m) {
        // From the last row down, so that a row's place in the block differs from its number.
        std::vector<int> rows;
        for (int i = 0; i < m; ++i) rows.push_back(max_rows - 1 - i);
        const Packed packed = pack_x(variant, x.data(), rows, nullptr, k, padded_k);
        CHECK(packed.intact());
        for (const void* second : {w1, static_cast<const void*>(nullptr)}) {
          std::vector<float> out(static_cast<size_t>(m + 1) * kOutStride, -7.0f);
          variant.run(call(matrix.tile(0), second, packed.words.data(), matrix.chunks(), m, out.data()));
          int different = 0;
          for (int i = 0; i < m; ++i) {
            different +=
                std::memcmp(out.data() + i * kOutStride, alone.data() + rows[static_cast<size_t>(i)] * kOutStride,
                            second != nullptr ? 128 : 64) != 0;
          }
          CAPTURE(m);
          CHECK(different == 0);
          for (size_t i = static_cast<size_t>(m) * kOutStride; i < out.size(); ++i) CHECK(out[i] == -7.0f);
        }
      }
    }
  }
}

// As long as no subnormal is involved, which vdpbf16ps takes as zero.
TEST_CASE("bf16 rows on bf16 weights give the same bits under every instruction set") {
  constexpr int64_t n = 32, k = 600;
  const std::vector<float> w = random_values(n * k, 3), x = random_values(k, 4);
  PackedMatrix matrix;
  REQUIRE(pack({w.data(), Dtype::F32, n, k}, WeightFormat::BF16, &matrix).ok());
  const Packed packed = pack_x({"", WeightFormat::BF16, true, nullptr}, x.data(), {0}, nullptr, k, k);
  float expected[kOutStride], out[kOutStride];
  find_kernels("portable")->tile[1][1](call(matrix.tile(0), matrix.tile(1), packed.words.data(), k / 2, 1, expected));
  kernels()->tile[1][1](call(matrix.tile(0), matrix.tile(1), packed.words.data(), k / 2, 1, out));
  CHECK(std::memcmp(expected, out, sizeof out) == 0);
}

TEST_CASE("packing interleaves rows, scales them, rounds to nearest even and zeroes the padding") {
  for (const Variant& variant : variants()) {
    for (int64_t k : {1, 2, 15, 16, 31, 32, 33, 63, 100}) {
      for (int m = 1; m <= kernels()->max_rows; ++m) {
        for (int64_t padded_k : {(k + 1) / 2 * 2, k}) {
          if (variant.bf16_rows && padded_k % 2 != 0) continue;
          const std::vector<float> x = random_values(static_cast<size_t>(m * k), 5);
          const std::vector<float> scale = random_values(static_cast<size_t>(m), 6);
          std::vector<int> rows;
          for (int i = 0; i < m; ++i) rows.push_back(i);
          for (const float* factors : {scale.data(), static_cast<const float*>(nullptr)}) {
            const Packed packed = pack_x(variant, x.data(), rows, factors, k, padded_k);
            int wrong = 0;
            for (int64_t c = 0; c < padded_k; ++c) {
              for (int r = 0; r < m; ++r) {
                float expected = 0;
                if (c < k) {
                  expected = x[static_cast<size_t>(r * k + c)];
                  if (factors != nullptr) expected *= factors[r];
                }
                float got;
                if (variant.bf16_rows) {
                  const uint32_t pair = packed.words[static_cast<size_t>(c / 2 * m + r)];
                  got = bf16_to_f32(static_cast<uint16_t>(c % 2 == 0 ? pair : pair >> 16));
                  expected = bf16_to_f32(f32_to_bf16(expected));
                } else {
                  std::memcpy(&got, &packed.words[static_cast<size_t>(c * m + r)], 4);
                }
                wrong += got != expected;  // a negative scale may leave -0 in the padding
              }
            }
            INFO(variant.name);
            CAPTURE(k);
            CAPTURE(m);
            CHECK(wrong == 0);
            CHECK(packed.intact());
          }
        }
      }
    }
  }
}

TEST_CASE("glu and mlp write activated units in packed form and touch nothing else") {
  const Activation activations[] = {Activation::Silu, Activation::GeluTanh, Activation::GeluErf,
                                    Activation::Relu, Activation::Relu2,    Activation::Identity};
  const std::vector<float> bias = random_values(32, 9);
  for (Activation act : activations) {
    for (int m = 1; m <= kernels()->max_rows; ++m) {
      const std::vector<float> tile = random_values(static_cast<size_t>(m) * kOutStride, 10);
      for (int count : {16, 15, 9, 2, 1}) {
        for (int form = 0; form < 8; ++form) {
          const bool glu = (form & 1) != 0, bf16 = (form & 2) != 0, biased = (form & 4) != 0;
          constexpr int64_t unit = 16;  // the second tile's units
          const int columns = bf16 ? (count + 1) / 2 * 2 : count;
          Packed packed = packed_room(static_cast<size_t>((unit + columns) * m) / (bf16 ? 2 : 1));
          const float* b0 = biased ? bias.data() : nullptr;
          const float* b1 = biased ? bias.data() + 16 : nullptr;
          if (glu) {
            kernels()->glu(tile.data(), b0, b1, act, m, count, unit, packed.words.data(),
                           bf16 ? UnitForm::Bf16 : UnitForm::F32, 0);
          } else {
            kernels()->mlp(tile.data(), b0, act, m, count, unit, packed.words.data(),
                           bf16 ? UnitForm::Bf16 : UnitForm::F32, 0);
          }
          int wrong = 0;
          for (int r = 0; r < m; ++r) {
            for (int c = 0; c < columns; ++c) {
              double expected = 0, scale = 1;
              if (c < count) {
                // The kernel's own first step in f32, so that what is compared is the activation alone.
                const float gate = tile[static_cast<size_t>(r * kOutStride + c)] + (biased ? b0[c] : 0.0f);
                const float up = tile[static_cast<size_t>(r * kOutStride + 16 + c)] + (biased ? b1[c] : 0.0f);
                expected = reference::activate(act, gate) * (glu ? up : 1.0f);
                scale = std::max(1.0, std::fabs(static_cast<double>(gate))) * (glu ? std::fabs(up) : 1.0f);
              }
              float got;
              if (bf16) {
                const uint32_t pair = packed.words[static_cast<size_t>((unit + c) / 2 * m + r)];
                got = bf16_to_f32(static_cast<uint16_t>(c % 2 == 0 ? pair : pair >> 16));
              } else {
                std::memcpy(&got, &packed.words[static_cast<size_t>((unit + c) * m + r)], 4);
              }
              // The sigmoid or erfc factor: 8 roundings' worth of relative error (math-inl.h), of a factor <= 1 times
              // |gate|; the rest a few roundings of the result. Then one rounding to bf16, 2^-8 relative.
              const double bound = 8 * kEps * (scale + std::fabs(expected)) + (bf16 ? std::fabs(expected) / 256 : 0);
              wrong += !(std::fabs(got - expected) <= bound);
            }
          }
          CAPTURE(static_cast<int>(act));
          CAPTURE(m);
          CAPTURE(count);
          CAPTURE(form);
          CHECK(wrong == 0);
          CHECK(packed.intact());
          const size_t before = static_cast<size_t>(unit * m) / (bf16 ? 2 : 1);
          CHECK(std::all_of(packed.words.begin(), packed.words.begin() + static_cast<long>(before),
                            [](uint32_t word) { return word == 0xdeadbeefu; }));
        }
      }
    }
  }
}
