#include <cstring>

#include "formats/format_info.h"
#include "formats/planes.h"
#include "formats/quantized.h"

namespace smoe {
namespace {

// Columns staged at a time, a multiple of every unit (4, 8, 16, 20, 32): 16 rows of them are 10 KiB.
constexpr int64_t kStage = 640;

using PackUnits = void (*)(const uint8_t* const*, int64_t, unsigned char*);

// Lays out one matrix of codes ([rows, cols], one byte each) as units of unit_bytes, tile after tile `tile_stride`
// apart.
void pack_codes(const uint8_t* codes, int64_t rows, int64_t cols, int64_t unit_cols, int64_t unit_bytes, int pad,
                PackUnits pack, unsigned char* out, size_t tile_stride) {
  uint8_t stage[kTileRows][kStage];
  const uint8_t* staged[kTileRows];
  for (int r = 0; r < kTileRows; ++r) staged[r] = stage[r];
  for (int64_t first = 0; first < rows; first += kTileRows, out += tile_stride) {
    unsigned char* to = out;
    for (int64_t k = 0; k < cols; k += kStage) {
      const int64_t count = cols - k < kStage ? cols - k : kStage;
      const int64_t padded = (count + unit_cols - 1) / unit_cols * unit_cols;
      for (int64_t r = 0; r < kTileRows; ++r) {
        const bool real = first + r < rows;
        if (real) std::memcpy(stage[r], codes + (first + r) * cols + k, static_cast<size_t>(count));
        const int64_t from = real ? count : 0;
        std::memset(stage[r] + from, pad, static_cast<size_t>(padded - from));
      }
      pack(staged, padded, to);
      to += padded / unit_cols * unit_bytes;
    }
  }
}

void store_plane_value(unsigned char* out, size_t index, PlaneType type, float value) {
  if (type == PlaneType::F32) {
    std::memcpy(out + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = type == PlaneType::F16 ? f32_to_f16(value) : f32_to_bf16(value);
  std::memcpy(out + index * 2, &bits, 2);
}

float load_plane_value(const void* plane, size_t index, PlaneType type) {
  const unsigned char* base = static_cast<const unsigned char*>(plane);
  if (type == PlaneType::F32) {
    float value;
    std::memcpy(&value, base + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, base + index * 2, 2);
  return type == PlaneType::F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// The first type of F16, Bf16, F32 that holds every value exactly.
class ExactType {
 public:
  void see(float value) {
    f16_ = f16_ && f16_to_f32(f32_to_f16(value)) == value;
    bf16_ = bf16_ && bf16_to_f32(f32_to_bf16(value)) == value;
  }
  PlaneType type() const { return f16_ ? PlaneType::F16 : bf16_ ? PlaneType::Bf16 : PlaneType::F32; }

 private:
  bool f16_ = true, bf16_ = true;
};

// values [rows, groups] less `offset` into plane `index` of `count` of every tile; padding rows stay as they are.
void pack_plane(const std::vector<float>& values, float offset, const PackedMatrix& matrix, int index, int count,
                PlaneType type, unsigned char* out) {
  const size_t groups = static_cast<size_t>(matrix.groups());
  for (size_t row = 0; row < static_cast<size_t>(matrix.rows); ++row) {
    const size_t tile = row / kTileRows * static_cast<size_t>(count) + static_cast<size_t>(index);
    for (size_t g = 0; g < groups; ++g) {
      store_plane_value(out, (tile * groups + g) * kTileRows + row % kTileRows, type,
                        values[row * groups + g] - offset);
    }
  }
}

Status allocate_zeroed(size_t elements, PlaneType type, Buffer* out) {
  SMOE_RETURN_IF_ERROR(out->allocate(elements * plane_type_bytes(type)));
  std::memset(out->data(), 0, out->bytes());
  return Status();
}

}  // namespace

Status pack_quantized(const QuantizedMatrix& source, PackedMatrix* out) {
  SMOE_RETURN_IF_ERROR(validate(source));
  const FormatInfo& info = *format_info(source.format);
  PackedMatrix matrix;
  matrix.format = source.format;
  matrix.rows = source.rows;
  matrix.cols = source.cols;
  matrix.group = source.group;
  matrix.planes = static_cast<int>(source.planes.size());
  matrix.codebook = source.codebook;
  matrix.mul = source.mul;

  size_t bytes = 0;
  if (!checked_product(static_cast<size_t>(matrix.tiles()), matrix.tile_bytes(), &bytes)) {
    return error(Code::OutOfMemory, "a weight matrix of [%lld, %lld] is larger than memory can be",
                 static_cast<long long>(matrix.rows), static_cast<long long>(matrix.cols));
  }
  SMOE_RETURN_IF_ERROR(matrix.storage.allocate(bytes));
  // The base's units come first in a tile, then each plane's.
  unsigned char* codes = matrix.storage.as<unsigned char>();
  const bool nested = source.format == WeightFormat::WN;
  const int64_t base_cols = nested ? info.unit_cols / 2 : info.unit_cols;
  const int64_t padded = matrix.chunks() * info.unit_cols;
  const int pad = source.format == WeightFormat::W1 ? 0 : info.zero;
  if (nested && padded != matrix.cols) {
    // The base is padded to the planes' unit: its own second half-unit may be all padding, which nothing reads a value
    // of.
    std::memset(codes, 0, bytes);
  }
  pack_codes(source.codes.data(), matrix.rows, matrix.cols, base_cols, nested ? 64 : info.unit_bytes, pad, info.pack,
             codes, matrix.tile_bytes());
  codes += padded / base_cols * (nested ? 64 : info.unit_bytes);
  for (const QuantizedMatrix::Plane& plane : source.planes) {
    pack_codes(plane.bits.data(), matrix.rows, matrix.cols, planes::Masks::kCols, planes::Masks::kBytes, 0,
               planes::pack<planes::Masks>, codes, matrix.tile_bytes());
    codes += padded / planes::Masks::kCols * planes::Masks::kBytes;
  }

  ExactType scale_type, zero_type;
  for (float scale : source.scales) scale_type.see(scale);
  for (const QuantizedMatrix::Plane& plane : source.planes) {
    for (float scale : plane.scales) scale_type.see(scale);
  }
  matrix.scale_type = scale_type.type();
  const size_t per_plane = static_cast<size_t>(matrix.tiles() * matrix.groups() * kTileRows);
  const int count = 1 + matrix.planes;
  SMOE_RETURN_IF_ERROR(allocate_zeroed(per_plane * static_cast<size_t>(count), matrix.scale_type, &matrix.scales));
  unsigned char* scales = matrix.scales.as<unsigned char>();
  pack_plane(source.scales, 0, matrix, 0, count, matrix.scale_type, scales);
  for (int i = 0; i < matrix.planes; ++i) {
    pack_plane(source.planes[static_cast<size_t>(i)].scales, 0, matrix, 1 + i, count, matrix.scale_type, scales);
  }
  if (!source.zeros.empty()) {
    const float own = static_cast<float>(info.zero);
    for (float zero : source.zeros) zero_type.see(zero - own);
    matrix.zero_type = zero_type.type();
    SMOE_RETURN_IF_ERROR(allocate_zeroed(per_plane, matrix.zero_type, &matrix.zeros));
    pack_plane(source.zeros, own, matrix, 0, 1, matrix.zero_type, matrix.zeros.as<unsigned char>());
  }
  *out = std::move(matrix);
  return Status();
}

void unpack_codes(const PackedMatrix& matrix, int64_t row, uint8_t* codes) {
  const FormatInfo& info = *format_info(matrix.format);
  info.unpack(matrix.tile(row / kTileRows), static_cast<int>(row % kTileRows), matrix.chunks() * matrix.chunk_cols(),
              codes);
}

void unpack_plane(const PackedMatrix& matrix, int plane, int64_t row, uint8_t* bits) {
  const int64_t padded = matrix.chunks() * matrix.chunk_cols();
  // The base has 64 bytes per 16 columns, a plane per 32.
  const unsigned char* const masks = matrix.tile(row / kTileRows) + padded * 4 + padded * 2 * (plane - 1);
  planes::unpack<planes::Masks>(masks, static_cast<int>(row % kTileRows), padded, bits);
}

void unpack_scales(const PackedMatrix& matrix, int64_t row, float* scales, float* zeros, int plane) {
  const int64_t tile = row / kTileRows;
  const void* const own_zeros = matrix.tile_zeros(tile);
  for (int64_t group = 0; group < matrix.groups(); ++group) {
    const size_t at = static_cast<size_t>(group * kTileRows + row % kTileRows);
    const size_t of_plane = at + static_cast<size_t>(plane * matrix.groups() * kTileRows);
    scales[group] = load_plane_value(matrix.tile_scales(tile), of_plane, matrix.scale_type);
    if (zeros == nullptr) continue;
    zeros[group] = own_zeros == nullptr ? 0 : load_plane_value(own_zeros, at, matrix.zero_type);
  }
}

void unpack_quantized_row(const PackedMatrix& matrix, int64_t row, float* out) {
  const FormatInfo& info = *format_info(matrix.format);
  const int64_t tile = row / kTileRows, padded = matrix.chunks() * matrix.chunk_cols(), groups = matrix.groups();
  const int lane = static_cast<int>(row % kTileRows);
  std::vector<uint8_t> codes(static_cast<size_t>(padded));
  unpack_codes(matrix, row, codes.data());
  const auto at = [&](int64_t plane, int64_t k) {
    return static_cast<size_t>((plane * groups + k / matrix.group) * kTileRows + lane);
  };
  for (int64_t k = 0; k < matrix.cols; ++k) {
    float value = info.value(codes[static_cast<size_t>(k)], matrix.codebook);
    if (const void* zeros = matrix.tile_zeros(tile)) value -= load_plane_value(zeros, at(0, k), matrix.zero_type);
    out[k] = value * (load_plane_value(matrix.tile_scales(tile), at(0, k), matrix.scale_type) * matrix.mul);
  }
  for (int plane = 1; plane <= matrix.planes; ++plane) {
    unpack_plane(matrix, plane, row, codes.data());
    for (int64_t k = 0; k < matrix.cols; ++k) {
      const float scale = load_plane_value(matrix.tile_scales(tile), at(plane, k), matrix.scale_type) * matrix.mul;
      out[k] += codes[static_cast<size_t>(k)] != 0 ? scale : -scale;
    }
  }
}

}  // namespace smoe
