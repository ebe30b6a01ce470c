// Quantized matrices on a device keep their codes, scales and zero points, however they are put together.
#include <doctest/doctest.h>

#include "../cuda/code_element.h"
#include "../cuda/coded_matrix.h"
#include "../emulated_device.h"
#include "device/nested_matrix.h"

using namespace smoe;
using namespace smoe_test;
using cu::test::coded_matrix;
using cu::test::CodedMatrix;
using cu::test::CodeSpec;

namespace {

class Downloaded {
 public:
  Downloaded(Device& device, const DeviceMatrix& matrix) : view_(matrix.view), cols_(matrix.cols) {
    const auto guard = device.lock();
    view_.atoms = reinterpret_cast<const cu::U32x4*>(copy(device, matrix.storage, &atoms_));
    view_.scales = copy(device, matrix.scales, &scales_);
    view_.zeros = matrix.view.zeros == nullptr ? nullptr : copy(device, matrix.zeros, &zeros_);
  }
  float at(int64_t row, int64_t col) const { return cu::test::code_element(view_, cols_, row, col); }

 private:
  static const void* copy(Device& device, const DeviceBuffer& from, std::vector<cu::U32x4>* to) {
    to->resize((from.bytes() + 15) / 16);
    REQUIRE(device.copy_out(to->data(), from.data(), from.bytes()).ok());
    return to->data();
  }
  cu::AtomMatrix view_;
  int64_t cols_;
  std::vector<cu::U32x4> atoms_, scales_, zeros_;
};

float value(const CodedMatrix& m, int64_t row, int64_t col) {
  if (row >= m.codes.rows || col >= m.codes.cols) return 0;
  return m.values[static_cast<size_t>(row * m.codes.cols + col)];
}

const std::vector<CodeSpec> kSpecs = {
    {WeightFormat::W8, 64, true}, {WeightFormat::W4, 32, true}, {WeightFormat::W3, 64}, {WeightFormat::W2, 64, true},
    {WeightFormat::T5},           {WeightFormat::F8, 32},       {WeightFormat::W4C, 32}};

}  // namespace

TEST_CASE("codes on a device: plain and padded, gate and up (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  unsigned seed = 1;
  for (const CodeSpec& spec : kSpecs) {
    const CodedMatrix m = coded_matrix(spec, 37, 128, seed++), other = coded_matrix(spec, 37, 128, seed++);
    DeviceMatrix plain, pair;
    REQUIRE(upload_padded(*device, m.packed, 60, 150, Precision::Fast, pool, nullptr, &plain).ok());
    REQUIRE(plain.view.scales != nullptr);
    CHECK(plain.rows == 60);
    CHECK(plain.cols == 150);
    const Downloaded one(*device, plain);
    for (int64_t row = 0; row < 64; ++row) {
      for (int64_t col = 0; col < 150; ++col) REQUIRE(one.at(row, col) == value(m, row, col));
    }
    REQUIRE(
        upload_gate_up_padded(*device, m.packed, other.packed, 48, 128, Precision::Exact, pool, nullptr, &pair).ok());
    const Downloaded two(*device, pair);
    for (int64_t unit = 0; unit < 48; ++unit) {
      const int64_t row = unit / 8 * 16 + unit % 8;
      for (int64_t col = 0; col < 128; ++col) {
        REQUIRE(two.at(row, col) == value(m, unit, col));
        REQUIRE(two.at(row + 8, col) == value(other, unit, col));
      }
    }
  }
}

TEST_CASE("bit-nested matrices on a device: base and planes, padded, or not kept (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  const auto nested = [](int planes, unsigned seed) {
    CodeSpec spec{WeightFormat::WN, 32, true};
    spec.planes = planes;
    return coded_matrix(spec, 37, 128, seed);
  };
  const CodedMatrix m = nested(3, 1), other = nested(1, 2), none = nested(0, 3);
  const CodedMatrix four = coded_matrix({WeightFormat::W4, 32}, 37, 128, 4);
  const auto check = [&](const DeviceMatrix& matrix, auto expected) {
    std::vector<Downloaded> parts;
    parts.reserve(1 + matrix.planes.size());  // they point into themselves
    parts.emplace_back(*device, matrix);
    for (const DeviceMatrix& plane : matrix.planes) parts.emplace_back(*device, plane);
    for (int64_t row = 0; row < matrix.rows; ++row) {
      for (int64_t col = 0; col < matrix.cols; ++col) {
        float sum = 0;
        for (const Downloaded& part : parts) sum += part.at(row, col);
        REQUIRE(sum == expected(row, col));
      }
    }
  };
  DeviceMatrix plain, pair, base, mixed, other_format;
  REQUIRE(upload_nested_padded(*device, m.packed, 60, 150, Precision::Fast, pool, nullptr, &plain).ok());
  CHECK(plain.view.plane_count == 3);
  check(plain, [&](int64_t row, int64_t col) { return value(m, row, col); });
  REQUIRE(upload_nested_gate_up_padded(*device, m.packed, other.packed, 48, 128, Precision::Fast, pool, nullptr, &pair)
              .ok());
  CHECK(pair.view.plane_count == 3);
  check(pair, [&](int64_t row, int64_t col) { return value(row % 16 < 8 ? m : other, row / 16 * 8 + row % 8, col); });
  REQUIRE(upload_nested_padded(*device, none.packed, 37, 128, Precision::Fast, pool, nullptr, &base).ok());
  CHECK(base.view.format == cu::AtomFormat::T2);
  CHECK(base.view.plane_count == 0);
  REQUIRE(upload_nested_gate_up_padded(*device, m.packed, four.packed, 48, 128, Precision::Fast, pool, nullptr, &mixed)
              .ok());
  CHECK(mixed.view.format == cu::AtomFormat::Bf16);
  REQUIRE(upload_nested_padded(*device, four.packed, 37, 128, Precision::Fast, pool, nullptr, &other_format).ok());
  CHECK(other_format.view.format == cu::AtomFormat::W4);
}

TEST_CASE("codes on a device: below each other and side by side (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  const CodeSpec spec{WeightFormat::W4, 64, true};
  const CodedMatrix q = coded_matrix(spec, 24, 128, 1), k = coded_matrix({WeightFormat::W3, 32}, 5, 128, 2),
                    v = coded_matrix(spec, 24, 128, 3);
  DeviceMatrix stack, batch;
  REQUIRE(upload_stacked(*device, {&q.packed, &k.packed, &v.packed}, Precision::Fast, pool, nullptr, &stack).ok());
  CHECK(stack.rows == 53);
  const Downloaded all(*device, stack);
  for (int64_t row = 0; row < 64; ++row) {
    for (int64_t col = 0; col < 128; ++col) {
      const float want = row < 24 ? value(q, row, col) : row < 29 ? value(k, row - 24, col) : value(v, row - 29, col);
      REQUIRE(all.at(row, col) == want);
    }
  }
  std::vector<PackedMatrix> maps(2);
  REQUIRE(pack_quantized(q.codes, &maps[0]).ok());
  REQUIRE(pack_quantized(v.codes, &maps[1]).ok());
  REQUIRE(upload_batch(*device, maps, Precision::Fast, pool, nullptr, &batch).ok());
  const Downloaded side(*device, batch);
  for (int64_t row = 0; row < 32; ++row) {
    for (int64_t col = 0; col < 128; ++col) {
      REQUIRE(side.at(row, col) == value(q, row, col));
      REQUIRE(side.at(32 + row, col) == value(v, row, col));
    }
  }
}

TEST_CASE("codes on a device: what has no common atoms is decoded (emulated)") {
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(1);
  const CodedMatrix four = coded_matrix({WeightFormat::W4, 32}, 16, 64, 1),
                    eight = coded_matrix({WeightFormat::W8, 32}, 16, 64, 2);
  DeviceMatrix pair;
  REQUIRE(upload_gate_up(*device, four.packed, eight.packed, 16, Precision::Fast, pool, nullptr, &pair).ok());
  CHECK(pair.view.format == cu::AtomFormat::Bf16);
  REQUIRE(upload_gate_up(*device, four.packed, eight.packed, 16, Precision::Exact, pool, nullptr, &pair).ok());
  CHECK(pair.view.format == cu::AtomFormat::Bf16x3);
}
