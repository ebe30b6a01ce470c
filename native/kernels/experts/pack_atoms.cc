#include "kernels/experts/pack_atoms.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "formats/quantized.h"
#include "kernels/experts/code_atoms.h"

namespace smoe {
namespace {

// The atom format of a matrix, and its codes as those: sign * code + offset. A negative sign negates scales and zero
// points too.
struct Mapping {
  cu::AtomFormat format = cu::AtomFormat::Bf16;
  int sign = 1, factor = 1, offset = 0;
};

bool mapping_of(const PackedMatrix& matrix, int part, Mapping* out) {
  if (part != kWholeMatrix) {
    *out = part == kNestedBase ? Mapping{cu::AtomFormat::T2, -1, -1, 3} : Mapping{cu::AtomFormat::Signs, 1, 1, 0};
    return matrix.format == WeightFormat::WN;
  }
  switch (matrix.format) {
    case WeightFormat::W8:
      *out = {cu::AtomFormat::W8, 1, 1, 0};
      return true;
    case WeightFormat::W4:
      *out = {cu::AtomFormat::W4, 1, 1, 0};
      return true;
    case WeightFormat::W3:
      *out = {cu::AtomFormat::W4, 1, 1, 4};
      return true;
    case WeightFormat::W2:
      *out = {cu::AtomFormat::T2, -1, -1, 3};
      return true;
    case WeightFormat::W1:
      *out = {cu::AtomFormat::T2, 1, 2, 0};
      return true;
    case WeightFormat::T2:
    case WeightFormat::T5:
      *out = {cu::AtomFormat::T2, 1, 1, 0};
      return true;
    case WeightFormat::F8:
      *out = {cu::AtomFormat::F8, 1, 1, 0};
      return true;
    case WeightFormat::W4C:
      *out = {cu::AtomFormat::Mxfp4, 1, 1, 0};
      return matrix.codebook != 2;
    default:
      return false;
  }
}

// What a scale or zero plane of every matrix needs.
class NeededType {
 public:
  void see(const std::vector<float>& values, bool zeros) {
    for (const float value : values) {
      f16_ = f16_ && std::isfinite(f16_to_f32(f32_to_f16(value))) && f16_to_f32(f32_to_f16(value)) == value;
      int exponent;
      powers_ =
          powers_ && !zeros && value > 0 && std::frexp(value, &exponent) == 0.5f && exponent >= -126 && exponent <= 128;
    }
  }
  cu::ScaleType type() const { return powers_ ? cu::ScaleType::E8m0 : f16_ ? cu::ScaleType::F16 : cu::ScaleType::F32; }

 private:
  bool f16_ = true, powers_ = true;
};

// Whether the matrix has the part that is laid out.
bool has_part(const PackedMatrix& matrix, int part) { return part <= kNestedBase || part <= matrix.planes; }

// Scales and zero points of a row as the plan has them.
void row_planes(const AtomPlan& plan, const PackedMatrix& matrix, int64_t row, std::vector<float>* scales,
                std::vector<float>* zeros) {
  Mapping map;
  mapping_of(matrix, plan.part, &map);
  scales->resize(static_cast<size_t>(matrix.groups()));
  zeros->resize(scales->size());
  unpack_scales(matrix, row, scales->data(), zeros->data(), std::max(plan.part, 0));
  const float sign = static_cast<float>(map.sign);
  for (float& scale : *scales) scale *= plan.fold_mul ? sign * matrix.mul : sign;
  for (float& zero : *zeros) zero *= sign;
}

void store(cu::ScaleType type, void* plane, size_t at, float value) {
  switch (type) {
    case cu::ScaleType::F32:
      static_cast<float*>(plane)[at] = value;
      break;
    case cu::ScaleType::F16:
      static_cast<uint16_t*>(plane)[at] = f32_to_f16(value);
      break;
    case cu::ScaleType::E8m0: {
      int exponent;
      std::frexp(value, &exponent);
      static_cast<uint8_t*>(plane)[at] = static_cast<uint8_t>(exponent + 126);
      break;
    }
  }
}

size_t scale_type_bytes(cu::ScaleType type) {
  return type == cu::ScaleType::F32 ? 4 : type == cu::ScaleType::F16 ? 2 : 1;
}

}  // namespace

bool plan_atoms(const std::vector<const PackedMatrix*>& matrices, int64_t padded_cols, AtomPlan* plan, int part) {
  AtomPlan made;
  Mapping first;
  if (matrices.empty() || !mapping_of(*matrices[0], part, &first)) return false;
  made.part = part;
  made.format = first.format;
  made.cols = matrices[0]->cols;
  made.padded_cols = padded_cols;
  made.mul = matrices[0]->mul;
  int64_t group = 0;
  for (const PackedMatrix* matrix : matrices) {
    Mapping map;
    if (!mapping_of(*matrix, part, &map) || map.format != made.format || matrix->cols != made.cols) return false;
    made.zeros = made.zeros || (part <= kNestedBase && matrix->zeros.bytes() != 0);
    made.fold_mul = made.fold_mul || matrix->mul != made.mul;
    group = std::gcd(group, matrix->group);
  }
  if (padded_cols < made.cols || padded_cols % 2 != 0) return false;
  int group_cols = 0, atom_cols = 0;
  cu::with_layout(made.format, [&](auto layout) {
    group_cols = decltype(layout)::kGroupCols;
    atom_cols = decltype(layout)::kCols;
  });
  // Groups divide the width; one as wide as it is per row, whatever its size.
  if (group == made.cols) group = 0;
  if (group % group_cols != 0 || group > (1 << 30)) return false;
  if (made.fold_mul) made.mul = 1;
  NeededType needed;
  std::vector<float> scales, zeros;
  for (const PackedMatrix* matrix : matrices) {
    for (int64_t row = 0; row < matrix->rows && has_part(*matrix, part); ++row) {
      row_planes(made, *matrix, row, &scales, &zeros);
      needed.see(scales, false);
      if (made.zeros) needed.see(zeros, true);
    }
  }
  made.scale_type = needed.type();
  made.group = static_cast<int>(group);
  made.atom_bytes = static_cast<size_t>(cu::atoms_along(padded_cols, atom_cols)) * 512;
  made.scale_bytes = static_cast<size_t>(cu::atom_groups(made.format, padded_cols, group) * cu::kAtomRows) *
                     scale_type_bytes(made.scale_type);
  *plan = made;
  return true;
}

AtomRow atom_row(const PackedMatrix& matrix, int64_t block, int j) {
  const int64_t row = block * cu::kAtomRows + j;
  return row < matrix.rows ? AtomRow{&matrix, row} : AtomRow{};
}

AtomRow atom_row(const PackedMatrix& gate, const PackedMatrix& up, int64_t block, int j) {
  const PackedMatrix& matrix = j < 8 ? gate : up;
  const int64_t row = block * 8 + j % 8;
  return row < matrix.rows ? AtomRow{&matrix, row} : AtomRow{};
}

void pack_atom_block(const AtomPlan& plan, const AtomRow* rows, void* atoms, void* scales, void* zeros,
                     std::vector<unsigned char>* scratch) {
  std::memset(scales, 0, plan.scale_bytes);
  if (zeros != nullptr) std::memset(zeros, 0, plan.scale_bytes);
  std::vector<float> row_scales, row_zeros;
  cu::with_layout(plan.format, [&](auto layout) {
    using Layout = decltype(layout);
    // Room for what a CPU chunk adds past the last atom.
    const size_t padded = static_cast<size_t>(cu::atoms_along(plan.padded_cols, Layout::kCols) * Layout::kCols),
                 room = 64;
    scratch->assign(cu::kAtomRows * (padded + room), Layout::kZeroCode);
    const uint8_t* codes[cu::kAtomRows];
    for (size_t j = 0; j < cu::kAtomRows; ++j) {
      uint8_t* const mine = scratch->data() + j * (padded + room);
      codes[j] = mine;
      if (rows[j].matrix == nullptr || !has_part(*rows[j].matrix, plan.part)) continue;
      const PackedMatrix& matrix = *rows[j].matrix;
      Mapping map;
      mapping_of(matrix, plan.part, &map);
      if (plan.part > kNestedBase) {
        unpack_plane(matrix, plan.part, rows[j].row, mine);
      } else {
        unpack_codes(matrix, rows[j].row, mine);
      }
      const size_t cols = static_cast<size_t>(plan.cols);
      for (size_t k = 0; k < cols; ++k) mine[k] = static_cast<uint8_t>(mine[k] * map.factor + map.offset);
      std::memset(mine + cols, Layout::kZeroCode, padded - cols);
      row_planes(plan, matrix, rows[j].row, &row_scales, &row_zeros);
      // A matrix of wider groups than the plan's repeats its scales.
      const int64_t real = plan.group > 0 ? plan.cols / plan.group : 1;
      for (int64_t group = 0; group < real; ++group) {
        const size_t from = static_cast<size_t>(group * plan.group / matrix.group),
                     to = static_cast<size_t>(group) * cu::kAtomRows + j;
        store(plan.scale_type, scales, to, row_scales[from]);
        if (zeros != nullptr) store(plan.scale_type, zeros, to, row_zeros[from]);
      }
    }
    cu::pack_code_block(layout, codes, plan.padded_cols, static_cast<cu::U32x4*>(atoms));
  });
}

}  // namespace smoe
