// The codes of a QuantizedMatrix as files hold them (specs/quantization.md 4.4): per row an LSB-first bit stream along
// K, each row beginning at a byte; t5 five base-3 digits per byte.
#pragma once

#include <vector>

#include "formats/quantized.h"

namespace smoe {

// Bits of a code; 0 for t5, which packs digits.
int code_bits(WeightFormat format);
// Bytes of one row of codes.
int64_t code_row_bytes(WeightFormat format, int64_t cols);
// Byte-aligned LSB-first stream of n codes of `bits` bits.
void pack_bits(const uint8_t* codes, int64_t n, int bits, uint8_t* out);
void unpack_bits(const uint8_t* bytes, int64_t n, int bits, uint8_t* codes);
void pack_row_codes(WeightFormat format, const uint8_t* codes, int64_t cols, uint8_t* out);
void unpack_row_codes(WeightFormat format, const uint8_t* bytes, int64_t cols, uint8_t* codes);

}  // namespace smoe
