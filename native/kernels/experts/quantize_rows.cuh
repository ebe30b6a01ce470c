// f32 rows to int8 codes, the twin of pack_rows_int8 (pack-inl.h) in every rounding: scale = amax / 127 per group,
// codes = x * (127 / amax) to nearest even; a group whose amax is below 2^-100 is zero, one with a NaN or an infinity
// has the scale NaN (and codes that mean nothing). A block takes a row; within it a unit of 32 columns lies in eight
// lanes.
#pragma once

#include "kernels/experts/int8_args.h"
#include "kernels/experts/token_bits.cuh"

namespace smoe::cu {

constexpr int kQuantizeThreads = 256, kQuantizeWarps = kQuantizeThreads / 32, kInt8Unit = 32;

// Three words for each unit of 32 columns.
inline size_t quantize_shared_bytes(int64_t k) { return static_cast<size_t>(int8_stride(k) / kInt8Unit * 12); }

SMOE_DEVICE float larger_or_nan(float a, float b) { return a != a || a > b ? a : b; }

// into(g, combined) for every group g of `per` units, of one value per unit in shared memory.
template <class T, class Combine, class Into>
SMOE_DEVICE void for_groups(const T* units, int count, int per, T none, Combine combine, Into into) {
  const int groups = (count + per - 1) / per;
  if (per <= 8) {
    for (int g = tid(); g < groups; g += nthreads()) {
      T all = none;
      for (int i = g * per; i < count && i < (g + 1) * per; ++i) all = combine(lds(units + i), all);
      into(g, all);
    }
    return;
  }
  for (int g = warp(); g < groups; g += kQuantizeWarps) {
    T all = none;
    for (int i = g * per + lane(); i < count && i < (g + 1) * per; i += 32) all = combine(lds(units + i), all);
    for (int d = 16; d > 0; d /= 2) all = combine(shfl_xor(all, d), all);
    if (lane() == 0) into(g, all);
  }
}

// What a dispatched row is.
struct SourceRow {
  int64_t row = 0;
  float scale = 1;
  int group = 0;
};
SMOE_DEVICE SourceRow dispatched_row(const QuantizeRowsArgs& args, int64_t row) {
  int e = 0, end = args.experts;  // the last expert with offset[e] <= row
  while (end - e > 1) {
    const int middle = (e + end) / 2;
    (ldg(args.offset + middle) <= row ? e : end) = middle;
  }
  SourceRow from{row, 1, ldg(&args.weights[e].group)};
  if (args.gather != nullptr) {
    from.row = ldg(args.gather + row);
  } else if (args.mask != nullptr) {
    from.row = nth_bit(ldg(args.mask + e), static_cast<int>(row) - ldg(args.offset + e));
  }
  if (args.row_scale != nullptr) from.scale = ldg(args.row_scale + row);
  return from;
}

// The four columns that are bytes 4w .. 4w + 3 of a unit: two pairs of neighbours, eight columns apart.
SMOE_DEVICE void load_slots(const QuantizeRowsArgs& args, const SourceRow& from, int64_t unit, float (&v)[4]) {
  const int w = lane() % 8;
  const int64_t k = unit * kInt8Unit + physical_k(4 * w);
  const float* const x = args.x + off(from.row, args.x_stride) + k;
  SMOE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const U32x2 pair = k + 8 * i < args.k ? ldg(reinterpret_cast<const U32x2*>(x + 8 * i)) : U32x2{};
    v[i] = bit_cast<float>(pair.x[0]) * from.scale;
    v[i + 2] = bit_cast<float>(pair.x[1]) * from.scale;
  }
}

SMOE_KERNEL(kQuantizeThreads, 1) quantize_rows(QuantizeRowsArgs args) {
  SMOE_SMEM_DYN(float, peaks);  // of units, later sums of their codes; then 127 / amax and the scale of groups
  pdl_wait();
  pdl_trigger();
  const int units = static_cast<int>(int8_stride(args.k) / kInt8Unit);
  int32_t* const sums = reinterpret_cast<int32_t*>(peaks);
  float *const inverse = peaks + units, *const scale = inverse + units;
  const bool dispatched = args.out.dispatched;
  const int64_t rows = dispatched                 ? ldg(args.offset + args.experts)
                       : args.num_rows != nullptr ? ldg(args.num_rows)
                                                  : args.max_rows;
  const int copies = dispatched ? 1 : args.out.count;
  for (int64_t item = bid(); item < rows * copies; item += nblocks()) {
    const int64_t row = item / copies;
    Int8Rows out = args.out.rows[0];
    SMOE_UNROLL
    for (int i = 1; i < kInt8Groups; ++i) {
      if (item % copies == i) out = args.out.rows[i];
    }
    const SourceRow from = dispatched ? dispatched_row(args, row) : SourceRow{row, 1, out.group};
    const int per = from.group > 0 ? from.group / kInt8Unit : units;
    for (int unit = tid() / 8; unit < units; unit += kQuantizeThreads / 8) {
      float v[4], peak = 0;
      load_slots(args, from, unit, v);
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) peak = larger_or_nan(fma(v[i], 0.0f, v[i] < 0 ? -v[i] : v[i]), peak);
      for (int d = 4; d > 0; d /= 2) peak = larger_or_nan(shfl_xor(peak, d), peak);
      if (lane() % 8 == 0) sts(peaks + unit, peak);
    }
    sync();
    for_groups(peaks, units, per, 0.0f, larger_or_nan, [&](int g, float amax) {
      const bool tiny = !(amax >= 0x1p-100f);
      sts(inverse + g, tiny ? 0.0f : 127.0f / amax);
      sts(scale + g, amax != amax ? amax : tiny ? 0.0f : amax / 127.0f);
    });
    sync();
    for (int unit = tid() / 8; unit < units; unit += kQuantizeThreads / 8) {
      float v[4];
      load_slots(args, from, unit, v);
      const float factor = lds(inverse + unit / per);
      uint32_t word = 0;
      int32_t sum = 0;
      SMOE_UNROLL
      for (int i = 0; i < 4; ++i) {
        float value = v[i] * factor;
        value = value > -127.0f ? value : -127.0f;  // NaN too
        value = value < 127.0f ? value : 127.0f;
        // 1.5 * 2^23, whose last place is 1: the sum is rounded to nearest even and ends in the integer's bits.
        const uint32_t bits = bit_cast<uint32_t>(value + 12582912.0f) & 0xFFu;
        word |= bits << (8 * i);
        sum += static_cast<int8_t>(bits);
      }
      stg(reinterpret_cast<uint32_t*>(out.codes + off(row, out.stride) + unit * kInt8Unit) + lane() % 8, word);
      for (int d = 4; d > 0; d /= 2) sum += shfl_xor(sum, d);
      if (lane() % 8 == 0) sts(sums + unit, sum);
    }
    sync();
    for_groups(
        sums, units, per, int32_t{0}, [](int32_t a, int32_t b) { return a + b; },
        [&](int g, int32_t sum) {
          stg(out.scales + off(row, out.groups) + g,
              U32x2{{bit_cast<uint32_t>(lds(scale + g)), static_cast<uint32_t>(sum)}});
        });
    sync();  // the next row's peaks
  }
}

}  // namespace smoe::cu
