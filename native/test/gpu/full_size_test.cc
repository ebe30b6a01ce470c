// The MoE block at the sizes of real models (specs/cuda-kernels.md 4.6): the same bits from run to run and whatever the
// batch, on every path; the paths against each other; some tokens against double. In emulation the same at a small
// size.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "bench/cuda/moe_rig.h"
#include "kernels/experts/atoms.h"

using namespace smoe;
using namespace smoe::bench;

namespace {

// Of ||got - expected|| / ||expected||, spec 2.11: h and y are rounded to bf16, 2^-9 each at most and less on average.
constexpr double kTolerance = 5e-3;
constexpr size_t kMargin = size_t{1} << 30;

bool emulated(BenchDevice& device) { return std::strcmp(device.runtime().kind, "emulation") == 0; }

std::vector<MoeShape> shapes_for(BenchDevice& device) {
  if (emulated(device)) return {{"tiny", 128, 64, 8, 2}};
  return bench_shapes();
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
std::vector<float> rows_of(const std::vector<float>& all, int64_t hidden, int64_t first, int64_t rows) {
  return std::vector<float>(all.begin() + first * hidden, all.begin() + (first + rows) * hidden);
}
double distance(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return std::sqrt(error / norm);
}

std::vector<float> decoded(BenchDevice& device, MoeRig& rig, int tokens, int64_t first) {
  rig.decode(0, tokens, first);
  REQUIRE_MESSAGE(device.synchronize(), device.error());
  return rig.output(0, tokens);
}
std::vector<float> prefilled(BenchDevice& device, MoeRig& rig, int64_t tokens, int64_t first, bool hopper) {
  rig.prefill(0, tokens, hopper, first);
  REQUIRE_MESSAGE(device.synchronize(), device.error());
  return rig.output(0, tokens);
}

// A packed bf16 matrix of the device, row by row.
class HostMatrix {
 public:
  HostMatrix(BenchDevice& device, const cu::AtomMatrix& matrix, int64_t blocks, int64_t cols)
      : atoms_(cu::atoms_along(cols)), words_(static_cast<size_t>(cu::packed_words(blocks, cols))) {
    REQUIRE(device.ok(
        device.runtime().copy_out(device.stream(), words_.data(), matrix.atoms, words_.size() * sizeof(cu::U32x4))));
    REQUIRE(device.synchronize());
  }
  // Row `row` of block `block` times x.
  double times(int64_t block, int row, const std::vector<double>& x) const {
    double sum = 0;
    for (int64_t atom = 0; atom < atoms_; ++atom) {
      for (int col = 0; col < cu::kAtomCols; ++col) {
        const size_t k = static_cast<size_t>(atom * cu::kAtomCols + col);
        if (k >= x.size()) return sum;
        // The lane and register of (row, col): the inverse of a16_element.
        const int lane = 4 * (row % 8) + col % 8 / 2, reg = row / 8 + 2 * (col / 8);
        const cu::U32x4& words = words_[static_cast<size_t>((block * atoms_ + atom) * 32 + lane)];
        sum += x[k] * cu::to_float(cu::half_of(words.x[reg], col % 2));
      }
    }
    return sum;
  }

 private:
  int64_t atoms_;
  std::vector<cu::U32x4> words_;
};

// One token through the experts that the device chose, with its weights.
std::vector<float> reference(BenchDevice& device, const MoeRig& rig, int64_t row, const std::vector<int32_t>& ids,
                             const std::vector<float>& weights) {
  const MoeShape& s = rig.shape();
  const auto input = rig.input(0, row, 1);
  const std::vector<double> x(input.begin(), input.end());
  std::vector<double> out(static_cast<size_t>(s.hidden), 0);
  for (size_t slot = 0; slot < ids.size(); ++slot) {
    const size_t expert = static_cast<size_t>(ids[slot]);
    const HostMatrix up(device, rig.set_of(0).gate_up.entries()[expert], (s.width + 7) / 8, s.hidden);
    std::vector<double> h;
    for (int64_t i = 0; i < s.width; ++i) {
      const double gate = up.times(i / 8, static_cast<int>(i % 8), x);
      h.push_back(gate / (1 + std::exp(-gate)) * up.times(i / 8, static_cast<int>(i % 8) + 8, x));
    }
    const HostMatrix down(device, rig.set_of(0).down.entries()[expert], (s.hidden + 15) / 16, s.width);
    for (int64_t i = 0; i < s.hidden; ++i) {
      out[static_cast<size_t>(i)] += weights[slot] * down.times(i / 16, static_cast<int>(i % 16), h);
    }
  }
  return std::vector<float>(out.begin(), out.end());
}

void check_decode(BenchDevice& device, MoeRig& rig, bool against_double) {
  const int64_t hidden = rig.shape().hidden;
  const int64_t rows = emulated(device) ? 20 : 64;
  const auto all = decoded(device, rig, static_cast<int>(rows), 0);
  const auto ids = rig.ids(0, rows);
  const auto weights = rig.weights(0, rows);
  CHECK(same_bits(all, decoded(device, rig, static_cast<int>(rows), 0)));
  for (const int64_t row : {int64_t{0}, rows / 2 - 1, rows - 1}) {
    CAPTURE(row);
    CHECK(same_bits(rows_of(all, hidden, row, 1), decoded(device, rig, 1, row)));
  }
  CHECK(same_bits(rows_of(all, hidden, rows - 9, 9), decoded(device, rig, 9, rows - 9)));
  if (!against_double) return;
  const size_t k = static_cast<size_t>(rig.shape().k);
  const auto last = static_cast<size_t>(rows - 1) * k;
  const auto expected = reference(device, rig, rows - 1, {ids.begin() + static_cast<std::ptrdiff_t>(last), ids.end()},
                                  {weights.begin() + static_cast<std::ptrdiff_t>(last), weights.end()});
  CHECK(distance(rows_of(all, hidden, rows - 1, 1), expected) <= kTolerance);
}

void check_prefill(BenchDevice& device, MoeRig& rig, int64_t tokens, bool hopper) {
  CAPTURE(hopper);
  const int64_t hidden = rig.shape().hidden, few = emulated(device) ? 70 : 80, first = tokens - few;
  const auto all = prefilled(device, rig, tokens, 0, hopper);
  CHECK(same_bits(all, prefilled(device, rig, tokens, 0, hopper)));
  const auto last = rows_of(all, hidden, first, few);
  CHECK(same_bits(last, prefilled(device, rig, few, first, hopper)));
  const auto one_by_one = decoded(device, rig, 16, tokens - 16);
  CHECK(distance(rows_of(last, hidden, few - 16, 16), one_by_one) <= kTolerance);
}

}  // namespace

TEST_CASE("full size: bits of the MoE block, from run to run and in every batch") {
  BenchDevice device;
  REQUIRE_MESSAGE(device.error().empty(), device.error());
  for (const WeightFormatSpec& format : bench_formats()) {
    for (const MoeShape& shape : shapes_for(device)) {
      CAPTURE(shape.name);
      CAPTURE(format.name);
      const int64_t tokens = emulated(device) ? 100 : 4096;
      const size_t needed =
          static_cast<size_t>(MoeRig::set_bytes(shape, format) + MoeRig::prefill_bytes(shape, format, tokens));
      if (device.memory_free() < needed + kMargin) {
        MESSAGE("skipped: not enough memory on the device");
        continue;
      }
      MoeRig rig(device, shape, format, 1, 1, tokens);
      rig.draw(tokens, 1);
      const bool bf16 = format.format == cu::AtomFormat::Bf16;
      check_decode(device, rig, bf16);
      check_prefill(device, rig, tokens, false);
      if (format.wgmma && device.has_wgmma()) check_prefill(device, rig, tokens, true);
      REQUIRE_MESSAGE(device.error().empty(), device.error());
    }
  }
}

// 140 000 tokens x 8 experts x 2048 columns: more than 2^31 elements of y.
TEST_CASE("full size: rows past the element 2^31") {
  BenchDevice device;
  REQUIRE_MESSAGE(device.error().empty(), device.error());
  const MoeShape shape = shapes_for(device).front();
  const int64_t tokens = emulated(device) ? 200 : 140000;
  const WeightFormatSpec& format = bench_formats().front();
  if (device.memory_free() < static_cast<size_t>(MoeRig::prefill_bytes(shape, format, tokens)) + 2 * kMargin) {
    MESSAGE("skipped: not enough memory on the device");
    return;
  }
  MoeRig rig(device, shape, format, 1, 1, tokens);
  rig.draw(tokens, 3);
  check_prefill(device, rig, tokens, false);
  if (device.has_wgmma()) check_prefill(device, rig, tokens, true);
}
