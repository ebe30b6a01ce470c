// Packed matrices on a device: every element is where kernels/experts/atoms.h says, in as many parts as asked for.
#include "device/matrix.h"

#include <doctest/doctest.h>

#include <cmath>

#include "../emulated_device.h"
#include "../moe_layer_support.h"
#include "kernels/experts/atoms.h"

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

}  // namespace

TEST_CASE("matrices of every kind, padded and not (emulated)") {
  Random random(1);
  const std::shared_ptr<Device> device = emulated_device();
  ThreadPool pool(2);
  for (const Precision precision : {Precision::Exact, Precision::Fast}) {
    std::vector<PackedMatrix> matrices;
    matrices.push_back(matrix(random, 37, 45, WeightFormat::F32));
    matrices.push_back(matrix(random, 16, 16, WeightFormat::BF16));
    matrices.push_back(matrix(random, 1, 1, WeightFormat::F32));
    const std::vector<float> values = random.row(48 * 64);
    for (const WeightFormat format : {WeightFormat::W4, WeightFormat::W4C, WeightFormat::F8}) {
      QuantizedMatrix codes;
      PackedMatrix packed;
      REQUIRE(quantize_rtn({values.data(), Dtype::F32, 48, 64}, format, RtnOptions(), &codes).ok());
      REQUIRE(pack_quantized(codes, &packed).ok());
      matrices.push_back(std::move(packed));
    }
    for (const PackedMatrix& from : matrices) {
      for (const int64_t more : {0, 19}) {
        DeviceMatrix to;
        const int64_t rows = from.rows + more, cols = from.cols + more;
        REQUIRE(upload_padded(*device, from, rows, cols, precision, pool, nullptr, &to).ok());
        CHECK(to.rows == rows);
        CHECK(to.cols == cols);
        // Codes stay codes (code_matrix_test.cc) unless the width is odd.
        CHECK((to.view.scales != nullptr) == (from.quantized() && cols % 2 == 0));
        if (to.view.scales != nullptr) continue;
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
