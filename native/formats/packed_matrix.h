// A weight matrix as the kernels read it.
//
// Layout "P16": tiles of 16 consecutive output rows, tiles ordered along N (rows). A tile is a sequence of
// 64-byte chunks ordered along K (columns). In the 16-bit form a chunk holds k = 2c, 2c+1 of the 16 rows, lane r =
// (W[r][2c], W[r][2c+1]), which is the operand shape of vdpbf16ps; in the f32 form a chunk is one k of the
// 16 rows. GEMV broadcasts an activation per chunk without any horizontal sum, and GEMM uses the same
// chunk for many rows, so both add up in the same order: that is what makes a token's bits independent of its batch.
// Rows are padded to 16 and columns to the chunk with zeros.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/dtype.h"
#include "formats/matrix_source.h"
#include "formats/weight_format.h"

namespace smoe {

const char* weight_format_name(WeightFormat format);
// False, and *out untouched, for a name that is not a format.
bool weight_format_of(const char* name, WeightFormat* out);

constexpr int kTileRows = 16;

// Bit-nested matrices (wn) may be read in part: the base and the first `planes` of their residual planes.
constexpr int kAllPlanes = 255;

inline size_t plane_type_bytes(PlaneType type) { return type == PlaneType::F32 ? 4 : 2; }

// Quantized formats hold codes in such tiles, in units of one or more chunks (formats/planes.h), and beside them a
// scale plane [tile][1 + planes][group][16] and, with zero points, a zero plane [tile][group][16]; padding rows have
// scale 0.
struct PackedMatrix {
  WeightFormat format = WeightFormat::F32;
  int64_t rows = 0;  // N, output features
  int64_t cols = 0;  // K, input features
  Buffer storage;

  // Quantized formats only.
  int64_t group = 0;  // columns per scale
  int planes = 0;     // wn: one-bit planes
  int codebook = 0;   // w4c
  float mul = 1;      // factor of every scale
  PlaneType scale_type = PlaneType::F16, zero_type = PlaneType::F16;
  Buffer scales, zeros;  // zeros: zero point less the format's own; empty when symmetric

  bool quantized() const { return format != WeightFormat::F32 && format != WeightFormat::BF16; }
  int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  // Columns and bytes of one unit of a tile (a chunk, or several in formats of more than one plane); units of a tile.
  int64_t chunk_cols() const;
  int64_t chunk_bytes() const;
  int64_t chunks() const { return (cols + chunk_cols() - 1) / chunk_cols(); }
  int64_t groups() const { return group > 0 ? (cols + group - 1) / group : 0; }
  size_t tile_bytes() const { return static_cast<size_t>(chunks() * chunk_bytes()); }
  const unsigned char* tile(int64_t index) const { return storage.as<unsigned char>() + index * tile_bytes(); }
  // The planes of one tile; null without. Bytes from one tile's to the next one's.
  const void* tile_scales(int64_t index) const;
  const void* tile_zeros(int64_t index) const;
  size_t tile_scale_bytes() const;
  size_t tile_zero_bytes() const;
  size_t bytes() const { return storage.bytes() + scales.bytes() + zeros.bytes(); }
  bool empty() const { return rows == 0; }
};

// The format a stored dtype is kept in: BF16 stays BF16; F16 and F32 become F32 (an f16 value is not
// exact in bf16).
WeightFormat natural_format(Dtype dtype);
// The same for codes: MXFP4 values are exact in BF16 (two significant bits and a power of two). E4M3 values times a
// scale are not: F32 where `exact` is asked for, BF16 elsewhere. A format with kernels of its own would be chosen here.
WeightFormat natural_format(const MatrixSource& source, bool exact);

// Allocates `out` and packs `source` into it. F32 source to BF16 format rounds to nearest even. F32 and BF16 formats
// only; quantized ones come from formats/quantized.h.
Status pack(const MatrixSource& source, WeightFormat format, PackedMatrix* out);
// Packs tiles [first, last) only, for callers that allocate once (allocate_packed) and pack in parallel.
Status allocate_packed(int64_t rows, int64_t cols, WeightFormat format, PackedMatrix* out);
void pack_tiles(const MatrixSource& source, PackedMatrix* out, int64_t first_tile, int64_t last_tile);
// One logical row back as f32 [cols]; for embeddings, tests and inspection.
void unpack_row(const PackedMatrix& matrix, int64_t row, float* out);

}  // namespace smoe
