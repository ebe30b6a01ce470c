#include "layer/row_blocks.h"

#include "formats/format_info.h"

namespace smoe {
namespace {

RowKind row_kind(WeightFormat format, Precision precision) {
  if (precision == Precision::Exact || format == WeightFormat::F32) return RowKind::F32;
  const FormatInfo* info = format_info(format);
  return info != nullptr && info->int8_rows ? RowKind::Int8 : RowKind::Bf16;
}

}  // namespace

RowLayout row_layout(const PackedMatrix& matrix, Precision precision) {
  RowLayout layout;
  layout.kind = row_kind(matrix.format, precision);
  layout.cols = matrix.cols;
  layout.padded = matrix.chunks() * matrix.chunk_cols();
  if (layout.kind == RowKind::Int8) {
    layout.group = matrix.group;
    layout.groups = matrix.groups();
  }
  return layout;
}

void pack_rows(const KernelTable& kernels, const RowLayout& layout, const float* const* rows, const float* scale, int m,
               void* out) {
  switch (layout.kind) {
    case RowKind::F32:
      kernels.pack_rows_f32(rows, scale, m, layout.cols, layout.padded, static_cast<float*>(out));
      break;
    case RowKind::Bf16:
      kernels.pack_rows_bf16(rows, scale, m, layout.cols, layout.padded, static_cast<uint32_t*>(out));
      break;
    case RowKind::Int8: {
      float* scales = reinterpret_cast<float*>(static_cast<unsigned char*>(out) + layout.padded * m);
      kernels.pack_rows_int8(rows, scale, m, layout.cols, layout.padded, layout.group, out, scales,
                             reinterpret_cast<int32_t*>(scales + layout.groups * m));
      break;
    }
  }
}

}  // namespace smoe
