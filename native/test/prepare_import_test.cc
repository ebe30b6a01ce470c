#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "core/dtype.h"
#include "prepare/canonical.h"
#include "prepare/import.h"

using namespace smoe;

namespace {

template <class T>
RawTensor raw(const char* dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  RawTensor tensor{dtype, std::move(shape), std::vector<uint8_t>(values.size() * sizeof(T))};
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}
RawTensor f16(std::vector<int64_t> shape, const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (float value : values) halves.push_back(f32_to_f16(value));
  return raw("F16", std::move(shape), halves);
}

std::vector<float> row_of(const QuantizedMatrix& m, int64_t row) {
  std::vector<float> out(static_cast<size_t>(m.cols));
  dequantize_row(m, row, out.data());
  return out;
}

QuantizedMatrix must(const ImportOptions& options, const RawTensors& tensors) {
  QuantizedMatrix m;
  const Status status = import_quantized(options, tensors, &m);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return m;
}

ImportOptions options(ImportKind kind, int64_t rows, int64_t cols, int bits = 4, int64_t group = 0) {
  ImportOptions o;
  o.kind = kind;
  o.rows = rows;
  o.cols = cols;
  o.bits = bits;
  o.group = group;
  return o;
}

const int kV5[] = {12, 1, 10, 8, 6, 14, 7, 8};  // codes of V5

// A GPTQ matrix of 8 rows whose every column of words is V5's, K = 8.
RawTensors gptq_v5() {
  RawTensors t;
  t["qweight"] = raw<uint32_t>("I32", {1, 8}, std::vector<uint32_t>(8, 0x87E68A1C));
  t["qzeros"] = raw<uint32_t>("I32", {1, 1}, {0x77777777});
  t["scales"] = f16({1, 8}, std::vector<float>(8, 0.125f));
  return t;
}

}  // namespace

TEST_CASE("V5: GPTQ words, with the zero point of either version") {
  ImportOptions o = options(ImportKind::Gptq, 8, 8);
  RawTensors t = gptq_v5();
  QuantizedMatrix m = must(o, t);
  CHECK(m.zeros.empty());  // 7 + 1 is the middle: symmetric
  for (int64_t r = 0; r < 8; ++r)
    for (size_t k = 0; k < 8; ++k) CHECK(row_of(m, r)[k] == 0.125f * static_cast<float>(kV5[k] - 8));
  o.stored_zero_minus_one = false;
  m = must(o, t);
  CHECK(row_of(m, 3)[0] == 0.125f * (12 - 7));
  t["qzeros"] = raw<uint32_t>("I32", {1, 1}, {0x7777777F});  // row 0: 15 + 1 wraps to 0
  o.stored_zero_minus_one = true;
  CHECK(row_of(must(o, t), 0)[0] == 0.125f * 12);
}

TEST_CASE("V5: three bits run on from word to word") {
  RawTensors t;
  std::vector<uint32_t> words;
  for (uint32_t word : {0x43C67543u, 0x7543C675u, 0xC67543C6u})
    for (int row = 0; row < 32; ++row) words.push_back(word);
  t["qweight"] = raw("I32", {3, 32}, words);
  t["qzeros"] = raw<uint32_t>("I32", {1, 3}, {0, 0, 0});
  t["scales"] = f16({1, 32}, std::vector<float>(32, 1));
  const QuantizedMatrix m = must(options(ImportKind::Gptq, 32, 32, 3), t);
  for (size_t k = 0; k < 32; ++k) CHECK(m.codes[7 * 32 + k] == (5 * k + 3) % 8);
}

TEST_CASE("V5: AWQ interleaves eight rows in a word") {
  RawTensors t;
  t["qweight"] = raw<uint32_t>("I32", {2, 1}, {0x8E8176AC, 0x8E8176AC});
  t["qzeros"] = raw<uint32_t>("I32", {1, 1}, {0x33333333});
  t["scales"] = f16({1, 8}, {1, 2, 3, 4, 5, 6, 7, 8});
  const QuantizedMatrix m = must(options(ImportKind::Awq, 8, 2), t);
  for (int64_t r = 0; r < 8; ++r) CHECK(row_of(m, r)[1] == static_cast<float>((r + 1) * (kV5[r] - 3)));
}

TEST_CASE("V5: compressed-tensors words, and three bits that leave two unused") {
  RawTensors t;
  t["weight_packed"] = raw<uint32_t>("I32", {1, 2}, {0x87E68A1C, 0x87E68A1C});
  t["weight_scale"] = f16({1, 2}, {1, 2});
  QuantizedMatrix m = must(options(ImportKind::Packed, 1, 16, 4, 8), t);
  for (size_t k = 0; k < 16; ++k) CHECK(row_of(m, 0)[k] == static_cast<float>((kV5[k % 8] - 8) * (k < 8 ? 1 : 2)));
  uint32_t first = 0, second = 5;
  for (uint32_t k = 0; k < 10; ++k) first |= (k % 8) << (3 * k);
  t["weight_packed"] = raw<uint32_t>("I32", {1, 2}, {first, second});
  t["weight_scale"] = f16({1, 1}, {1});
  t["weight_zero_point"] = raw<uint32_t>("I32", {1, 1}, {2});
  m = must(options(ImportKind::Packed, 1, 11, 3), t);
  CHECK(row_of(m, 0) == std::vector<float>{-2, -1, 0, 1, 2, 3, 4, 5, -2, -1, 3});
}

TEST_CASE("int8 and fp8 with scales of every shape") {
  RawTensors t;
  t["weight"] = raw<int8_t>("I8", {2, 4}, {-128, -1, 0, 127, 1, 2, 3, 4});
  t["weight_scale"] = f16({2, 1}, {0.5f, 2});
  CHECK(row_of(must(options(ImportKind::Int8, 2, 4), t), 0) == std::vector<float>{-64, -0.5f, 0, 63.5f});
  // V6: a block of 0.5/448.
  t["weight"] = raw<uint8_t>("F8_E4M3", {1, 4}, {0x59, 0xFE, 0x6E, 0x78});
  t["weight_scale"] = raw<float>("F32", {1, 1}, {0.5f / 448});
  const float expected[] = {0.02008929f, -0.5f, 0.125f, 0.28571429f};
  for (size_t k = 0; k < 4; ++k)
    CHECK(row_of(must(options(ImportKind::Float8, 1, 4), t), 0)[k] == doctest::Approx(expected[k]));
  t["weight_scale"] = raw<float>("F32", {}, {2});  // a scalar
  CHECK(row_of(must(options(ImportKind::Float8, 1, 4), t), 0)[0] == 2 * 18.0f);
  // 128 x 128 blocks: the last ones are short.
  std::vector<uint8_t> ones(130 * 260, 0x38);
  t["weight"] = raw("F8_E4M3", {130, 260}, ones);
  t["weight_scale"] = raw<float>("F32", {2, 3}, {1, 2, 3, 4, 5, 6});
  const QuantizedMatrix m = must(options(ImportKind::Float8, 130, 260), t);
  CHECK(row_of(m, 127)[256] == 3);
  CHECK(row_of(m, 127)[255] == 2);
  CHECK(row_of(m, 128)[0] == 4);
  CHECK(row_of(m, 129)[128] == 5);
}

TEST_CASE("V7: MXFP4 with the low nibble first") {
  const float expected[] = {0, -0.5f, 3, 0.5f, -1.5f, 0, 4, -6};
  std::vector<uint8_t> blocks(2 * 16, 0);
  const uint8_t v7[] = {0x90, 0x15, 0x0B, 0xF6};
  std::memcpy(blocks.data(), v7, 4);
  std::memcpy(blocks.data() + 16, v7, 4);
  RawTensors t;
  t["blocks"] = raw("U8", {2, 1, 16}, blocks);
  t["scales"] = raw<uint8_t>("U8", {2, 1}, {127, 128});
  const ImportOptions o = options(ImportKind::Mxfp4, 2, 32);
  const QuantizedMatrix m = must(o, t);
  for (size_t k = 0; k < 8; ++k) {
    CHECK(row_of(m, 0)[k] == expected[k]);
    CHECK(row_of(m, 1)[k] == 2 * expected[k]);
  }
  t["scales"].bytes[1] = 255;
  QuantizedMatrix bad;
  CHECK(import_quantized(o, t, &bad).code() == Code::InvalidQuantization);
}

TEST_CASE("V8: NVFP4 divides by its global scale") {
  const uint8_t codes[] = {3, 15, 1, 6, 13, 7, 1, 10, 5, 14, 4, 7, 9, 3, 14, 6};
  std::vector<uint8_t> bytes;
  for (size_t k = 0; k < 16; k += 2) bytes.push_back(static_cast<uint8_t>(codes[k] | codes[k + 1] << 4));
  RawTensors t;
  t["weight_packed"] = raw("U8", {1, 8}, bytes);
  t["weight_scale"] = raw<uint8_t>("F8_E4M3", {1, 1}, {0x70});
  t["weight_global_scale"] = raw<float>("F32", {1}, {1792});
  const std::vector<float> row = row_of(must(options(ImportKind::Nvfp4, 1, 16), t), 0);
  CHECK(row[0] == doctest::Approx(0.107143));
  CHECK(row[1] == doctest::Approx(-0.428571));
}

TEST_CASE("V2: BitNet packs quarters of the rows, and its scale may be an inverse") {
  RawTensors t;
  t["weight"] = raw<uint8_t>("U8", {2, 1}, {38, 100});
  t["weight_scale"] = raw<float>("F32", {1}, {4});
  ImportOptions o = options(ImportKind::BitNet, 8, 1);
  const int expected[] = {1, -1, 0, 0, 1, 1, -1, 0};
  for (int64_t r = 0; r < 8; ++r) CHECK(row_of(must(o, t), r)[0] == static_cast<float>(4 * expected[r]));
  o.divide = true;
  CHECK(row_of(must(o, t), 0)[0] == 0.25f);
  t["weight"].bytes[0] = 0xff;  // no digit has the value 3
  QuantizedMatrix m;
  CHECK(import_quantized(o, t, &m).code() == Code::InvalidQuantization);
}

TEST_CASE("hostile imports are refused before anything is read") {
  const ImportOptions good = options(ImportKind::Gptq, 8, 8);
  QuantizedMatrix m;
  const auto code = [&](const ImportOptions& o, const RawTensors& t) { return import_quantized(o, t, &m).code(); };
  CHECK(code(good, gptq_v5()) == Code::Ok);
  for (const char* name : {"qweight", "qzeros", "scales"}) {
    RawTensors t = gptq_v5();
    t.erase(name);
    CHECK(code(good, t) == Code::MissingTensor);
    t = gptq_v5();
    t[name].bytes.pop_back();  // the shape lies about the bytes
    CHECK(code(good, t) != Code::Ok);
    t = gptq_v5();
    t[name].shape[1] = int64_t{1} << 62;
    CHECK(code(good, t) == Code::ShapeMismatch);
    t = gptq_v5();
    t[name].dtype = "I64";
    CHECK(code(good, t) != Code::Ok);
  }
  RawTensors t = gptq_v5();
  t["g_idx"] = raw<int32_t>("I32", {8}, {0, 0, 1, 0, 0, 0, 0, 0});
  CHECK(code(good, t) == Code::InvalidQuantization);
  for (float scale : {NAN, INFINITY, 0.0f}) {
    t = gptq_v5();
    t["scales"] = f16({1, 8}, {1, 1, 1, scale, 1, 1, 1, 1});
    CHECK(code(good, t) == Code::InvalidQuantization);
  }
  CHECK(code(options(ImportKind::Gptq, 8, 8, 5), gptq_v5()) == Code::InvalidQuantization);
  CHECK(code(options(ImportKind::Gptq, 8, 8, 4, 3), gptq_v5()) == Code::InvalidQuantization);
  CHECK(code(options(ImportKind::Gptq, 8, int64_t{1} << 40), gptq_v5()) == Code::InvalidArgument);
  CHECK(code(options(ImportKind::Gptq, 8, 1 << 24), gptq_v5()) == Code::InvalidQuantization);
}

TEST_CASE("codes of every format survive the canonical form") {
  std::mt19937 random(1);
  const struct {
    WeightFormat format;
    unsigned codes;
  } cases[] = {{WeightFormat::W8, 256}, {WeightFormat::W4, 16}, {WeightFormat::W3, 8}, {WeightFormat::W2, 4},
               {WeightFormat::W1, 2},   {WeightFormat::T2, 3},  {WeightFormat::T5, 3}, {WeightFormat::W4C, 16},
               {WeightFormat::WN, 4},   {WeightFormat::F8, 256}};
  for (const auto& [format, codes] : cases) {
    for (int64_t cols : {1, 5, 7, 16, 20, 63, 64, 257}) {
      std::vector<uint8_t> values(static_cast<size_t>(cols)), back(values.size());
      for (uint8_t& value : values) value = static_cast<uint8_t>(random() % codes);
      std::vector<uint8_t> bytes(static_cast<size_t>(code_row_bytes(format, cols)));
      pack_row_codes(format, values.data(), cols, bytes.data());
      unpack_row_codes(format, bytes.data(), cols, back.data());
      CHECK(values == back);
    }
  }
  // V2 and V3: the bit order, and the digit order.
  const uint8_t trits[] = {2, 0, 1, 2, 2};
  uint8_t byte = 0, five[5];
  pack_row_codes(WeightFormat::T2, trits, 4, &byte);
  CHECK(byte == 146);
  pack_row_codes(WeightFormat::T5, trits, 5, &byte);
  CHECK(byte == 227);
  unpack_row_codes(WeightFormat::T5, &byte, 5, five);
  CHECK(std::equal(trits, trits + 5, five));
  byte = 250;
  unpack_row_codes(WeightFormat::T5, &byte, 5, five);
  CHECK(five[4] == 255);
}
