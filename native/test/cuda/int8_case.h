// Rows of int8 activations for kernel tests, and what integer weights make of them: the arithmetic of the CPU's int8
// tiles (int8-inl.h, pack-inl.h), written once more.
#pragma once

#include <algorithm>
#include <cmath>

#include "expert_layer.h"
#include "formats/format_info.h"
#include "kernels/experts/int8_args.h"

namespace smoe::cu::test {

// One row in groups of `group` columns (0: one).
struct QuantizedRow {
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  int64_t group = 0;
};

inline QuantizedRow quantize_row(const float* x, int64_t k, int64_t group, float factor = 1) {
  QuantizedRow row;
  row.group = group > 0 ? group : k;
  for (int64_t first = 0; first < k; first += row.group) {
    const int64_t last = std::min(k, first + row.group);
    float amax = 0;
    bool finite = true;
    for (int64_t i = first; i < last; ++i) {
      const float value = x[i] * factor;
      finite = finite && std::isfinite(value);
      if (std::fabs(value) > amax) amax = std::fabs(value);
    }
    const bool tiny = !(amax >= 0x1p-100f);
    const float inverse = tiny ? 0.0f : 127.0f / amax;
    int32_t sum = 0;
    for (int64_t i = first; i < last; ++i) {
      const float code = finite ? std::nearbyint(std::fmin(std::fmax(x[i] * factor * inverse, -127.0f), 127.0f)) : 0;
      row.codes.push_back(static_cast<int8_t>(code));
      sum += row.codes.back();
    }
    row.scales.push_back(!finite ? NAN : tiny ? 0.0f : amax / 127.0f);
    row.sums.push_back(sum);
  }
  return row;
}

// Row `row` of a matrix times such a row.
struct Int8Dot {
  float value = 0;              // group after group
  double exact = 0, terms = 0;  // in double, and the sum of the sizes of what f32 adds
  int groups = 0;
};
inline Int8Dot int8_dot(const PackedMatrix& matrix, int64_t row, const QuantizedRow& x) {
  std::vector<uint8_t> codes(static_cast<size_t>(matrix.chunks() * matrix.chunk_cols()) + 64);
  std::vector<float> scales(static_cast<size_t>(matrix.groups())), zeros(scales.size());
  unpack_codes(matrix, row, codes.data());
  unpack_scales(matrix, row, scales.data(), zeros.data());
  const FormatInfo& info = *format_info(matrix.format);
  Int8Dot dot;
  for (int64_t first = 0; first < matrix.cols; first += x.group, ++dot.groups) {
    const size_t g = static_cast<size_t>(first / x.group), of = static_cast<size_t>(first / matrix.group);
    int64_t sum = 0;
    for (int64_t k = first; k < std::min(matrix.cols, first + x.group); ++k) {
      sum += static_cast<int64_t>(info.value(codes[static_cast<size_t>(k)], 0)) * x.codes[static_cast<size_t>(k)];
    }
    const float x_sum = static_cast<float>(x.sums[g]), scale = scales[of] * matrix.mul;
    const bool zero = matrix.zeros.bytes() != 0;
    const float value = zero ? std::fmaf(zeros[of], -x_sum, static_cast<float>(sum)) : static_cast<float>(sum);
    dot.value = std::fmaf(value * scale, x.scales[g], dot.value);
    const double of_zero = zero ? static_cast<double>(zeros[of]) * x_sum : 0, factor = double{scale} * x.scales[g];
    dot.exact += (static_cast<double>(sum) - of_zero) * factor;
    dot.terms += (std::fabs(static_cast<double>(sum)) + std::fabs(of_zero)) * std::fabs(factor);
  }
  return dot;
}

// Rows on the device, as quantize_rows leaves them. Groups past the row's own are zero.
class Int8Buffers {
 public:
  // groups: from a row to the next; group: 0 where rows have groups of their own.
  Int8Buffers(Gpu& gpu, const std::vector<QuantizedRow>& rows, int64_t k, int64_t groups, int group)
      : codes_(gpu.array(codes_of(rows, k), "x codes")), scales_(gpu.array(scales_of(rows, groups), "x scales")) {
    view.codes = codes_.data();
    view.scales = scales_.data();
    view.stride = int8_stride(k);
    view.groups = groups;
    view.group = group;
  }
  Int8Rows view;

 private:
  static std::vector<uint8_t> codes_of(const std::vector<QuantizedRow>& rows, int64_t k) {
    const size_t stride = static_cast<size_t>(int8_stride(k));
    std::vector<uint8_t> codes(rows.size() * stride, 0);
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t s = 0; s < stride; ++s) {
        const size_t col = s / 32 * 32 + static_cast<size_t>(physical_k(static_cast<int>(s % 32)));
        if (col < rows[r].codes.size()) codes[r * stride + s] = static_cast<uint8_t>(rows[r].codes[col]);
      }
    }
    return codes;
  }
  static std::vector<U32x2> scales_of(const std::vector<QuantizedRow>& rows, int64_t groups) {
    std::vector<U32x2> pairs(rows.size() * static_cast<size_t>(groups), U32x2{});
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t g = 0; g < rows[r].scales.size(); ++g) {
        pairs[r * static_cast<size_t>(groups) + g] = {
            {bit_cast<uint32_t>(rows[r].scales[g]), static_cast<uint32_t>(rows[r].sums[g])}};
      }
    }
    return pairs;
  }
  emu::Buffer<uint8_t> codes_;
  emu::Buffer<U32x2> scales_;
};

// The group that the kernels know a matrix by.
inline int group_of(const PackedMatrix& matrix) {
  return matrix.group == matrix.cols ? 0 : static_cast<int>(matrix.group);
}

// Rows x [count, k] once for each group among the experts' matrices; or dispatched, row r in the group of expert_of(r).
class Int8Inputs {
 public:
  template <class ExpertOf>
  Int8Inputs(Gpu& gpu, const std::vector<float>& x, int64_t k,
             const std::vector<std::shared_ptr<const PackedMatrix>>& matrices, bool dispatched, ExpertOf expert_of) {
    const int64_t count = static_cast<int64_t>(x.size()) / k;
    operand.dispatched = dispatched;
    std::vector<int> groups;
    int64_t most = 1;
    for (const auto& matrix : matrices) {
      const int group = group_of(*matrix);
      most = std::max(most, int8_groups(k, group));
      if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
    }
    if (dispatched) groups = {0};
    REQUIRE(groups.size() <= kInt8Groups);
    for (const int group : groups) {
      std::vector<QuantizedRow> rows;
      for (int64_t r = 0; r < count; ++r) {
        const int own = dispatched ? group_of(*matrices[static_cast<size_t>(expert_of(r))]) : group;
        rows.push_back(quantize_row(x.data() + r * k, k, own));
      }
      buffers_.push_back(std::make_unique<Int8Buffers>(gpu, rows, k, dispatched ? most : int8_groups(k, group), group));
      operand.rows[operand.count++] = buffers_.back()->view;
    }
  }
  Int8Operand operand;

 private:
  std::vector<std::unique_ptr<Int8Buffers>> buffers_;
};

// Integer formats in groups of every kind that divide `cols`; four groups at most.
inline std::vector<CodeSpec> integer_codes(int cols) {
  std::vector<CodeSpec> specs = {
      {WeightFormat::W4, 32, true}, {WeightFormat::W8, 64},        {WeightFormat::T2},
      {WeightFormat::W4, 128},      {WeightFormat::W8, 32, true},  {WeightFormat::W2, 32, true},
      {WeightFormat::W3, 64, true}, {WeightFormat::W1, 64},        {WeightFormat::W8, 0, true},
      {WeightFormat::W4, 0, true},  {WeightFormat::W2, 128, true}, {WeightFormat::W4, 64, false, 0, true}};
  for (CodeSpec& spec : specs) {
    if (spec.group > 0 && cols % spec.group != 0) spec.group = 0;
  }
  return specs;
}

}  // namespace smoe::cu::test
