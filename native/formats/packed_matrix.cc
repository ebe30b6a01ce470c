#include "formats/packed_matrix.h"

#include <cstring>

#include "formats/bf16.h"
#include "formats/f32.h"
#include "formats/format_info.h"
#include "formats/quantized.h"

namespace smoe {

const char* weight_format_name(WeightFormat format) {
  if (format == WeightFormat::F32) return "f32";
  if (format == WeightFormat::BF16) return "bf16";
  const FormatInfo* info = format_info(format);
  return info != nullptr ? info->name : "unknown";
}

bool weight_format_of(const char* name, WeightFormat* out) {
  for (int i = 0; i < kWeightFormats; ++i) {
    if (std::strcmp(name, weight_format_name(WeightFormat(i))) != 0) continue;
    *out = WeightFormat(i);
    return true;
  }
  return false;
}

int64_t PackedMatrix::chunk_cols() const {
  if (!quantized()) return format == WeightFormat::BF16 ? 2 : 1;
  return format_info(format)->unit_cols;
}

int64_t PackedMatrix::chunk_bytes() const {
  return quantized() ? format_info(format)->unit_bytes + int64_t{64} * planes : 64;
}

size_t PackedMatrix::tile_scale_bytes() const {
  return static_cast<size_t>(groups() * kTileRows * (1 + planes)) * plane_type_bytes(scale_type);
}

size_t PackedMatrix::tile_zero_bytes() const {
  return static_cast<size_t>(groups() * kTileRows) * plane_type_bytes(zero_type);
}

const void* PackedMatrix::tile_scales(int64_t index) const {
  if (scales.bytes() == 0) return nullptr;
  return scales.as<unsigned char>() + static_cast<size_t>(index) * tile_scale_bytes();
}

const void* PackedMatrix::tile_zeros(int64_t index) const {
  if (zeros.bytes() == 0) return nullptr;
  return zeros.as<unsigned char>() + static_cast<size_t>(index) * tile_zero_bytes();
}

WeightFormat natural_format(Dtype dtype) { return dtype == Dtype::BF16 ? WeightFormat::BF16 : WeightFormat::F32; }

WeightFormat natural_format(const MatrixSource& source, bool exact) {
  switch (source.coding) {
    case Coding::Plain:
      return natural_format(source.dtype);
    case Coding::F8E4M3:
      return exact ? WeightFormat::F32 : WeightFormat::BF16;
    case Coding::Mxfp4:
      return WeightFormat::BF16;
  }
  return WeightFormat::F32;
}

Status allocate_packed(int64_t rows, int64_t cols, WeightFormat format, PackedMatrix* out) {
  // 2^40 keeps the roundings below from overflowing; the product is checked on its own.
  constexpr int64_t kMaxSide = int64_t{1} << 40;
  if (rows <= 0 || cols <= 0 || rows > kMaxSide || cols > kMaxSide) {
    return error(Code::InvalidArgument, "a weight matrix needs positive sizes below 2^40, got [%lld, %lld]",
                 static_cast<long long>(rows), static_cast<long long>(cols));
  }
  if (format != WeightFormat::F32 && format != WeightFormat::BF16) {
    return error(Code::DtypeMismatch, "format %s needs codes and scales, not plain values", weight_format_name(format));
  }
  PackedMatrix matrix;
  matrix.format = format;
  matrix.rows = rows;
  matrix.cols = cols;
  size_t bytes = 0;
  if (!checked_product(static_cast<size_t>(matrix.tiles()), matrix.tile_bytes(), &bytes)) {
    return error(Code::OutOfMemory, "a weight matrix of [%lld, %lld] is larger than memory can be",
                 static_cast<long long>(rows), static_cast<long long>(cols));
  }
  SMOE_RETURN_IF_ERROR(matrix.storage.allocate(bytes));
  *out = std::move(matrix);
  return Status();
}

void pack_tiles(const MatrixSource& source, PackedMatrix* out, int64_t first_tile, int64_t last_tile) {
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    unsigned char* target = out->storage.as<unsigned char>() + static_cast<size_t>(tile) * out->tile_bytes();
    switch (out->format) {
      case WeightFormat::F32:
        f32_format::pack_tile(source, tile, target);
        break;
      case WeightFormat::BF16:
        bf16_format::pack_tile(source, tile, target);
        break;
      default:
        break;
    }
  }
}

Status pack(const MatrixSource& source, WeightFormat format, PackedMatrix* out) {
  if (source.coding == Coding::Plain && source.dtype != Dtype::F32 && source.dtype != Dtype::F16 &&
      source.dtype != Dtype::BF16) {
    return error(Code::DtypeMismatch, "a weight matrix must be f32, f16 or bf16, got %s", dtype_name(source.dtype));
  }
  PackedMatrix matrix;
  SMOE_RETURN_IF_ERROR(allocate_packed(source.rows, source.cols, format, &matrix));
  pack_tiles(source, &matrix, 0, matrix.tiles());
  *out = std::move(matrix);
  return Status();
}

void unpack_row(const PackedMatrix& matrix, int64_t row, float* out) {
  const unsigned char* tile = matrix.tile(row / kTileRows);
  const int row_in_tile = static_cast<int>(row % kTileRows);
  switch (matrix.format) {
    case WeightFormat::F32:
      f32_format::unpack_row(tile, row_in_tile, matrix.cols, out);
      break;
    case WeightFormat::BF16:
      bf16_format::unpack_row(tile, row_in_tile, matrix.cols, out);
      break;
    default:
      unpack_quantized_row(matrix, row, out);
      break;
  }
}

}  // namespace smoe
