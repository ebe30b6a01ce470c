#include "prepare/canonical.h"

#include <algorithm>

namespace smoe {

int code_bits(WeightFormat format) {
  switch (format) {
    case WeightFormat::W8:
    case WeightFormat::F8:
      return 8;
    case WeightFormat::W4:
    case WeightFormat::W4C:
      return 4;
    case WeightFormat::W3:
      return 3;
    case WeightFormat::W2:
    case WeightFormat::WN:
    case WeightFormat::T2:
      return 2;
    case WeightFormat::W1:
      return 1;
    default:
      return 0;
  }
}

int64_t code_row_bytes(WeightFormat format, int64_t cols) {
  return format == WeightFormat::T5 ? (cols + 4) / 5 : (cols * code_bits(format) + 7) / 8;
}

void pack_bits(const uint8_t* codes, int64_t n, int bits, uint8_t* out) {
  uint32_t held = 0;
  int count = 0;
  for (int64_t k = 0; k < n; ++k) {
    held |= static_cast<uint32_t>(codes[k]) << count;
    for (count += bits; count >= 8; count -= 8, held >>= 8) *out++ = static_cast<uint8_t>(held);
  }
  if (count > 0) *out = static_cast<uint8_t>(held);
}

void unpack_bits(const uint8_t* bytes, int64_t n, int bits, uint8_t* codes) {
  uint32_t held = 0;
  int count = 0;
  for (int64_t k = 0; k < n; ++k, held >>= bits, count -= bits) {
    for (; count < bits; count += 8) held |= static_cast<uint32_t>(*bytes++) << count;
    codes[k] = static_cast<uint8_t>(held & ((1u << bits) - 1));
  }
}

void pack_row_codes(WeightFormat format, const uint8_t* codes, int64_t cols, uint8_t* out) {
  if (format != WeightFormat::T5) return pack_bits(codes, cols, code_bits(format), out);
  for (int64_t k = 0; k < cols; k += 5) {
    int byte = 0, power = 1;
    for (int64_t i = k; i < k + 5; ++i, power *= 3) byte += power * (i < cols ? codes[i] : 1);
    *out++ = static_cast<uint8_t>(byte);
  }
}

void unpack_row_codes(WeightFormat format, const uint8_t* bytes, int64_t cols, uint8_t* codes) {
  if (format != WeightFormat::T5) return unpack_bits(bytes, cols, code_bits(format), codes);
  for (int64_t k = 0; k < cols; k += 5) {
    const int stored = *bytes++;
    int rest = stored;
    for (int64_t i = k; i < std::min(cols, k + 5); ++i, rest /= 3) {
      codes[i] =
          static_cast<uint8_t>(stored > 242 ? 255 : rest % 3);  // 243..255 stand for no digits: validate() refuses 255
    }
  }
}

}  // namespace smoe
