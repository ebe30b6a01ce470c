#include "layer/row_blocks.h"

#include "formats/format_info.h"

namespace smoe {
namespace {

RowKind row_kind(WeightFormat format, Precision precision) {
  if (precision == Precision::Exact || format == WeightFormat::F32) return RowKind::F32;
  const FormatInfo* info = format_info(format);
  return info != nullptr && info->int8_rows ? RowKind::Int8 : RowKind::Bf16;
}

void set_first(const PackedMatrix& matrix, int64_t tile, TileArgs* args) {
  args->w0 = matrix.tile(tile);
  args->s0 = matrix.tile_scales(tile);
  args->z0 = matrix.tile_zeros(tile);
  args->mul0 = matrix.mul;
}

// What TileArgs says once for both tiles.
void set_types(const PackedMatrix& matrix, int planes, TileArgs* args) {
  args->scale_type = matrix.scale_type;
  args->zero_type = matrix.zero_type;
  args->codebook = matrix.codebook;
  args->planes = matrix.planes < planes ? matrix.planes : planes;
}

bool pairable(const PackedMatrix& a, const PackedMatrix& b) {
  return a.scale_type == b.scale_type && a.zero_type == b.zero_type && a.codebook == b.codebook &&
         a.planes == b.planes && a.group == b.group && (a.zeros.bytes() == 0) == (b.zeros.bytes() == 0);
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

TileArgs block_args(const PackedMatrix& matrix, const RowLayout& layout, const void* block, int m, float* out,
                    int planes) {
  TileArgs args;
  args.x = block;
  args.m = m;
  args.out = out;
  args.chunks = matrix.chunks();
  if (layout.kind == RowKind::Int8) {
    args.x_scale = reinterpret_cast<const float*>(static_cast<const unsigned char*>(block) + layout.padded * m);
    args.x_sum = reinterpret_cast<const int32_t*>(args.x_scale + layout.groups * m);
  }
  if (matrix.quantized()) {
    args.groups = matrix.groups();
    args.group_chunks = matrix.group == matrix.cols ? args.chunks : matrix.group / matrix.chunk_cols();
    args.zero = format_info(matrix.format)->zero;
    set_types(matrix, planes, &args);
  }
  return args;
}

void run_tile_pair(TileFn tile, const PackedMatrix& a, int64_t first, const PackedMatrix* b, int64_t second,
                   TileArgs args, int planes) {
  if (b == nullptr || pairable(a, *b)) {
    set_first(a, first, &args);
    if (b != nullptr) {
      args.w1 = b->tile(second);
      args.s1 = b->tile_scales(second);
      args.z1 = b->tile_zeros(second);
      args.mul1 = b->mul;
    }
    return tile(args);
  }
  set_first(a, first, &args);
  tile(args);
  set_first(*b, second, &args);
  set_types(*b, planes, &args);
  args.out += kTileRows;
  tile(args);
}

}  // namespace smoe
