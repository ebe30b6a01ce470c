// The canonical in-memory form of a quantized matrix: what quantizers produce, files hold and pack_quantized() lays out
// for the kernels. Device independent; specs/quantization.md sections 1 and 4.4 define the meaning of each field.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.h"
#include "formats/packed_matrix.h"

namespace smoe {

// w = mul * scale * (u - zero) for the integer formats; w = mul * scale * value(code) for codebooks and f8;
// w = mul * scale * (2u - 1) for w1. One code per weight here (not bit-packed), row-major.
struct QuantizedMatrix {
  WeightFormat format = WeightFormat::W4;
  int64_t rows = 0, cols = 0;
  int64_t group = 0;           // columns per scale; = cols for one scale per row (t2, t5)
  std::vector<uint8_t> codes;  // [rows, cols] unsigned codes u (f8: the E4M3 byte)
  std::vector<float> scales;   // [rows, groups()] exact in the storage type of the format
  std::vector<float> zeros;    // [rows, groups()] zero point in code units, may be fractional (HQQ); empty = symmetric
  float mul = 1;               // tensor multiplier
  int codebook = 0;            // w4c: 0 MXFP4 (E2M1), 1 NVFP4 (E2M1), 2 NF4
  // wn only: residual planes after the 2-bit base, each w += plane_scale * (2*bit - 1).
  struct Plane {
    std::vector<uint8_t> bits;  // [rows, cols] 0 or 1
    std::vector<float> scales;  // [rows, groups()]
  };
  std::vector<Plane> planes;

  int64_t groups() const { return (cols + group - 1) / group; }
};

// Refuses sizes that do not agree, groups that do not divide K or are neither K nor a multiple of what the format packs
// together (w8, f8 4, w4, w4c 8, w2, t2 16, t5 20, w3, w1, wn 32 columns), integer groups above 65536 columns (their
// sums are 32-bit), codes out of range, NaN, infinite or zero scales (a residual plane's may be zero): before any
// compute.
Status validate(const QuantizedMatrix& matrix);
// The value of each weight, [cols] of one row, in f32.
void dequantize_row(const QuantizedMatrix& matrix, int64_t row, float* out);
// Validates, and lays the matrix out for the kernels.
Status pack_quantized(const QuantizedMatrix& matrix, PackedMatrix* out);

// unpack_row() for quantized formats: the same values as dequantize_row's.
void unpack_quantized_row(const PackedMatrix& matrix, int64_t row, float* out);

// The way back, for other layouts: the codes of a row, or the bits of one of its residual planes (1..planes), padded to
// chunks() * chunk_cols(); and, per group, its scales as stored and its zero points less the format's own (zeros: null
// where not wanted; 0 where the matrix is symmetric). plane 0: of the codes.
void unpack_codes(const PackedMatrix& matrix, int64_t row, uint8_t* codes);
void unpack_plane(const PackedMatrix& matrix, int plane, int64_t row, uint8_t* bits);
void unpack_scales(const PackedMatrix& matrix, int64_t row, float* scales, float* zeros, int plane = 0);

}  // namespace smoe
