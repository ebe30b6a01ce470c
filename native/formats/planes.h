// The units of quantized P16 tiles: how codes of 16 rows are laid out in a multiple of 64 bytes. Four consecutive
// columns of a row are one 32-bit word, byte j being column j, and are packed and unpacked as such.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats/packed_matrix.h"

namespace smoe::planes {

inline uint32_t load_word(const void* p) {
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}
inline void store_word(void* p, uint32_t word) { std::memcpy(p, &word, 4); }

// Bits * Words = 8: word p of a row's columns is bits [Bits * p, Bits * (p + 1)) of its bytes.
template <int Bits>
struct Fields {
  static constexpr int kWords = 8 / Bits, kCols = 4 * kWords, kBytes = 64;
  static void pack(const uint8_t* const* rows, int64_t column, unsigned char* out) {
    for (int r = 0; r < kTileRows; ++r) {
      uint32_t word = 0;
      for (int p = 0; p < kWords; ++p) word |= load_word(rows[r] + column + 4 * p) << (Bits * p);
      store_word(out + 4 * r, word);
    }
  }
  static void unpack(const unsigned char* unit, int row, uint8_t* codes) {
    const uint32_t word = load_word(unit + 4 * row);
    for (int p = 0; p < kWords; ++p) {
      store_word(codes + 4 * p, word >> (Bits * p) & (0xffu >> (8 - Bits)) * 0x01010101u);
    }
  }
};

// Eight masks of 64 bits, bit 4r + j of mask s being column 4s + j of row r.
struct Masks {
  static constexpr int kCols = 32, kBytes = 64;
  // Bit `bit` of each code.
  static void pack_bit(const uint8_t* const* rows, int64_t column, int bit, unsigned char* out) {
    for (int s = 0; s < 8; ++s) {
      uint64_t mask = 0;
      for (int r = 0; r < kTileRows; ++r) {
        const uint32_t word = load_word(rows[r] + column + 4 * s) >> bit & 0x01010101u;
        // the factor moves the bit of byte j to bit 28 + j, and nothing else there
        mask |= static_cast<uint64_t>(word * 0x10204080u >> 28) << (4 * r);
      }
      std::memcpy(out + 8 * s, &mask, 8);
    }
  }
  static void pack(const uint8_t* const* rows, int64_t column, unsigned char* out) { pack_bit(rows, column, 0, out); }
  static void unpack(const unsigned char* unit, int row, uint8_t* codes) {
    for (int k = 0; k < kCols; ++k) {
      const int bit = 4 * row + k % 4;
      codes[k] = unit[8 * (k / 4) + bit / 8] >> (bit % 8) & 1;
    }
  }
};

// Two low bits of 32 columns, then the masks of the third.
struct TwoAndOne {
  static constexpr int kCols = 32, kBytes = 192;
  static void pack(const uint8_t* const* rows, int64_t column, unsigned char* out) {
    for (int half = 0; half < 2; ++half) {
      for (int r = 0; r < kTileRows; ++r) {
        uint32_t word = 0;
        for (int p = 0; p < 4; ++p) {
          word |= (load_word(rows[r] + column + 16 * half + 4 * p) & 0x03030303u) << (2 * p);
        }
        store_word(out + 64 * half + 4 * r, word);
      }
    }
    Masks::pack_bit(rows, column, 2, out + 128);
  }
  static void unpack(const unsigned char* unit, int row, uint8_t* codes) {
    uint8_t high[32];
    Fields<2>::unpack(unit, row, codes);
    Fields<2>::unpack(unit + 64, row, codes + 16);
    Masks::unpack(unit + 128, row, high);
    for (int k = 0; k < kCols; ++k) codes[k] = static_cast<uint8_t>(codes[k] | high[k] << 2);
  }
};

// Five base-3 digits per byte, word p weighing 3^p. Bytes stay below 243, so words are multiplied whole.
struct Trits {
  static constexpr int kCols = 20, kBytes = 64;
  static void pack(const uint8_t* const* rows, int64_t column, unsigned char* out) {
    for (int r = 0; r < kTileRows; ++r) {
      uint32_t word = 0;
      for (int p = 4; p >= 0; --p) word = word * 3 + load_word(rows[r] + column + 4 * p);
      store_word(out + 4 * r, word);
    }
  }
  static void unpack(const unsigned char* unit, int row, uint8_t* codes) {
    for (int j = 0; j < 4; ++j) {
      int byte = unit[4 * row + j];
      for (int p = 0; p < 5; ++p, byte /= 3) codes[4 * p + j] = static_cast<uint8_t>(byte % 3);
    }
  }
};

// `columns` a multiple of the unit's.
template <class Unit>
void pack(const uint8_t* const* rows, int64_t columns, unsigned char* out) {
  for (int64_t k = 0; k < columns; k += Unit::kCols, out += Unit::kBytes) Unit::pack(rows, k, out);
}
template <class Unit>
void unpack(const unsigned char* tile, int row, int64_t columns, uint8_t* codes) {
  for (int64_t k = 0; k < columns; k += Unit::kCols, tile += Unit::kBytes) Unit::unpack(tile, row, codes + k);
}

}  // namespace smoe::planes
