// Packed matrices on a device: every element is where kernels/experts/atoms.h says, in as many parts as asked for.
#include "device/matrix.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "../emulated_device.h"
#include "../moe_layer_support.h"
#include "kernels/experts/atoms.h"
#include "kernels/experts/pack_atoms.h"

using namespace smoe;
using namespace smoe_test;

namespace {

// A matrix as it lies on the device.
class Downloaded {
 public:
  Downloaded(Device& device, const DeviceMatrix& matrix) : view_(matrix.view), cols_(matrix.cols) {
    bits_.resize(matrix.storage.bytes() / sizeof(cu::bf16));
    const auto guard = device.lock();
    REQUIRE(device.copy_out(bits_.data(), matrix.storage.data(), bits_.size() * sizeof(cu::bf16)).ok());
  }
  int parts() const { return view_.format == cu::AtomFormat::Bf16x3 ? 3 : 1; }
  // Sum of the parts of row `row` of row block `block`.
  float at(int64_t block, int row, int64_t col) const {
    double sum = 0;
    for (int part = 0; part < parts(); ++part) {
      const size_t atom = static_cast<size_t>(part * view_.part_step * 8 +
                                              (block * cu::atoms_along(cols_) + col / 16) * cu::kAtomElements);
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 8; ++i) {
          const cu::Element element = cu::a16_element(lane, i / 2, i % 2);
          if (element.row != row || element.col != col % 16) continue;
          sum += cu::to_float(bits_[atom + static_cast<size_t>(lane * 8 + i)]);
        }
      }
    }
    return static_cast<float>(sum);
  }

 private:
  cu::AtomMatrix view_;
  int64_t cols_;
  std::vector<cu::bf16> bits_;
};

// What the kernels should see of an element: itself in three parts or where it is bf16 anyway, else rounded.
float seen(const PackedMatrix& matrix, int64_t row, int64_t col, Precision precision) {
  if (row >= matrix.rows || col >= matrix.cols) return 0;
  std::vector<float> values(static_cast<size_t>(matrix.cols));
  unpack_row(matrix, row, values.data());
  const float value = values[static_cast<size_t>(col)];
  return precision == Precision::Exact ? value : cu::to_float(cu::to_bf16(value));
}

PackedMatrix quantized(const std::vector<float>& values, int64_t rows, int64_t cols, WeightFormat format,
                       int codebook = 0, bool asymmetric = false) {
  RtnOptions options;
  options.codebook = codebook;
  options.asymmetric = asymmetric;
  QuantizedMatrix codes;
  PackedMatrix packed;
  REQUIRE(quantize_rtn({values.data(), Dtype::F32, rows, cols}, format, options, &codes).ok());
  REQUIRE(pack_quantized(codes, &packed).ok());
  return packed;
}

std::vector<unsigned char> bytes_of(Device& device, const DeviceBuffer& buffer, size_t count) {
  std::vector<unsigned char> bytes(count);
  const auto guard = device.lock();
  REQUIRE(device.copy_out(bytes.data(), buffer.data(), count).ok());
  return bytes;
}

// The matrix on the device is the plan's row blocks one after the other.
template <class RowOf>
void check_codes(Device& device, const DeviceMatrix& got, const AtomPlan& plan, int64_t blocks, RowOf row_of) {
  CHECK(got.cols == plan.padded_cols);
  CHECK(got.view.format == plan.format);
  CHECK(got.view.scale_type == plan.scale_type);
  CHECK(got.view.group == plan.group);
  CHECK(got.view.mul == plan.mul);
  CHECK((got.view.zeros != nullptr) == plan.zeros);
  const size_t count = static_cast<size_t>(blocks);
  const auto atoms = bytes_of(device, got.storage, count * plan.atom_bytes),
             scales = bytes_of(device, got.scales, count * plan.scale_bytes),
             zeros = bytes_of(device, got.zeros, plan.zeros ? count * plan.scale_bytes : 0);
  std::vector<unsigned char> scratch, atom(plan.atom_bytes), scale(plan.scale_bytes), zero(plan.scale_bytes);
  for (size_t block = 0; block < count; ++block) {
    AtomRow rows[cu::kAtomRows];
    for (int j = 0; j < cu::kAtomRows; ++j) rows[j] = row_of(static_cast<int64_t>(block), j);
    pack_atom_block(plan, rows, atom.data(), scale.data(), plan.zeros ? zero.data() : nullptr, &scratch);
    CHECK(std::equal(atom.begin(), atom.end(), atoms.begin() + static_cast<int64_t>(block * plan.atom_bytes)));
    CHECK(std::equal(scale.begin(), scale.end(), scales.begin() + static_cast<int64_t>(block * plan.scale_bytes)));
    if (!plan.zeros) continue;
    CHECK(std::equal(zero.begin(), zero.end(), zeros.begin() + static_cast<int64_t>(block * plan.scale_bytes)));
  }
}

}  // namespace

TEST_CASE("codes stay codes: alone, padded, gate beside up, stacked, in several pieces (emulated)") {
  Random random(4);
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  AtomPlan plan;
  DeviceMatrix got;
  const std::vector<float> values = random.row(40 * 64), others = random.row(40 * 64);
  for (const WeightFormat format :
       {WeightFormat::W8, WeightFormat::W4, WeightFormat::W4C, WeightFormat::F8, WeightFormat::T2, WeightFormat::W3}) {
    CAPTURE(weight_format_name(format));
    const PackedMatrix one = quantized(values, 40, 64, format), two = quantized(others, 40, 64, format);
    for (const int64_t more : {0, 8}) {
      REQUIRE(upload_padded(*device, one, 40 + more, 64 + more, Precision::Fast, pool, nullptr, &got).ok());
      REQUIRE(plan_atoms({&one}, 64 + more, &plan));
      check_codes(*device, got, plan, 3, [&](int64_t block, int j) { return atom_row(one, block, j); });
    }
    REQUIRE(upload_gate_up(*device, one, two, 48, Precision::Exact, pool, nullptr, &got).ok());
    REQUIRE(plan_atoms({&one, &two}, 64, &plan));
    check_codes(*device, got, plan, 6, [&](int64_t block, int j) { return atom_row(one, two, block, j); });
    REQUIRE(upload_stacked(*device, {&one, &two}, Precision::Exact, pool, nullptr, &got).ok());
    CHECK(got.rows == 80);
    check_codes(*device, got, plan, 5, [&](int64_t block, int j) {
      const int64_t row = block * 16 + j;
      return row < 40 ? AtomRow{&one, row} : AtomRow{&two, row - 40};
    });
  }
  const PackedMatrix uneven = quantized(values, 40, 64, WeightFormat::W4, 0, true);
  REQUIRE(upload_matrix(*device, uneven, Precision::Fast, pool, nullptr, &got).ok());
  REQUIRE(plan_atoms({&uneven}, 64, &plan));
  CHECK(plan.zeros);
  check_codes(*device, got, plan, 3, [&](int64_t block, int j) { return atom_row(uneven, block, j); });
  // 9.2 MB of codes and scales.
  const PackedMatrix large = quantized(random.row(2200 * 4096), 2200, 4096, WeightFormat::W8);
  REQUIRE(upload_matrix(*device, large, Precision::Fast, pool, nullptr, &got).ok());
  REQUIRE(plan_atoms({&large}, 4096, &plan));
  check_codes(*device, got, plan, 138, [&](int64_t block, int j) { return atom_row(large, block, j); });
}

TEST_CASE("matrices without codes, padded and not (emulated)") {
  Random random(1);
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    std::vector<PackedMatrix> matrices;
    matrices.push_back(matrix(random, 37, 45, WeightFormat::F32));
    matrices.push_back(matrix(random, 16, 16, WeightFormat::BF16));
    matrices.push_back(matrix(random, 1, 1, WeightFormat::F32));
    const std::vector<float> values = random.row(48 * 64);
    // Formats without atoms: NF4, bit-nested.
    matrices.push_back(quantized(values, 48, 64, WeightFormat::W4C, 2));
    matrices.push_back(quantized(values, 48, 64, WeightFormat::WN));
    for (const PackedMatrix& from : matrices) {
      for (const int64_t more : {0, 19}) {
        DeviceMatrix to;
        const int64_t rows = from.rows + more, cols = from.cols + more;
        REQUIRE(upload_padded(*device, from, rows, cols, precision, pool, nullptr, &to).ok());
        CHECK(to.rows == rows);
        CHECK(to.cols == cols);
        const Downloaded got(*device, to);
        CHECK(got.parts() == (precision == Precision::Exact && from.format != WeightFormat::BF16 ? 3 : 1));
        for (int64_t row = 0; row < cu::row_blocks(rows) * 16; ++row) {
          for (int64_t col = 0; col < cols; ++col) {
            REQUIRE(got.at(row / 16, static_cast<int>(row % 16), col) == seen(from, row, col, precision));
          }
        }
      }
    }
  }
}

TEST_CASE("gate and up by eight rows, stacked matrices (emulated)") {
  Random random(2);
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  const PackedMatrix gate = matrix(random, 21, 30, WeightFormat::F32), up = matrix(random, 21, 30, WeightFormat::F32);
  DeviceMatrix pair;
  REQUIRE(upload_gate_up_padded(*device, gate, up, 32, 40, Precision::Exact, pool, nullptr, &pair).ok());
  CHECK(pair.rows == 64);
  const Downloaded both(*device, pair);
  for (int64_t unit = 0; unit < 32; ++unit) {
    for (int64_t col = 0; col < 40; ++col) {
      const int row = static_cast<int>(unit % 8);
      REQUIRE(both.at(unit / 8, row, col) == seen(gate, unit, col, Precision::Exact));
      REQUIRE(both.at(unit / 8, row + 8, col) == seen(up, unit, col, Precision::Exact));
    }
  }
  const PackedMatrix q = matrix(random, 24, 30, WeightFormat::BF16), k = matrix(random, 5, 30, WeightFormat::F32),
                     v = matrix(random, 7, 30, WeightFormat::F32);
  DeviceMatrix stack;
  REQUIRE(upload_stacked(*device, {&q, &k, &v}, Precision::Exact, pool, nullptr, &stack).ok());
  CHECK(stack.rows == 36);
  const Downloaded all(*device, stack);
  for (int64_t row = 0; row < 48; ++row) {
    for (int64_t col = 0; col < 30; ++col) {
      const float want = row < 24   ? seen(q, row, col, Precision::Exact)
                         : row < 29 ? seen(k, row - 24, col, Precision::Exact)
                                    : seen(v, row - 29, col, Precision::Exact);
      REQUIRE(all.at(row / 16, static_cast<int>(row % 16), col) == want);
    }
  }
  CHECK(upload_stacked(*device, {&q, &gate, &up}, Precision::Fast, pool, nullptr, &stack).ok());
  const PackedMatrix wide = matrix(random, 4, 31, WeightFormat::F32);
  CHECK(upload_stacked(*device, {&q, &wide}, Precision::Fast, pool, nullptr, &stack).code() == Code::ShapeMismatch);
}

TEST_CASE("a matrix of several pieces (emulated)") {
  Random random(3);
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  const PackedMatrix from = matrix(random, 1000, 2100, WeightFormat::F32);  // 12.7 MB in three parts
  DeviceMatrix to;
  REQUIRE(upload_matrix(*device, from, Precision::Exact, pool, nullptr, &to).ok());
  const Downloaded got(*device, to);
  std::vector<float> row(2100);
  for (int64_t r = 0; r < 1000; r += 37) {
    unpack_row(from, r, row.data());
    for (const int64_t c : {0, 1000, 2099}) {
      REQUIRE(got.at(r / 16, static_cast<int>(r % 16), c) == row[static_cast<size_t>(c)]);
    }
  }
}
