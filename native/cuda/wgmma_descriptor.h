// Shared-memory matrix descriptors of wgmma (PTX ISA, "Matrix Descriptor Format" and "Shared Memory Matrix Layout"),
// for K-major 16-bit B operands: fields, and the address of an element. Pure functions of both sides.
#pragma once

#include "cuda/types.h"

namespace smoe::cu {

// Values of bits 62-63.
enum class Swizzle : uint32_t { None = 0, Bytes128 = 1, Bytes64 = 2, Bytes32 = 3 };

// Only 18 address bits exist; fields hold them without the lower four.
SMOE_HD constexpr uint64_t descriptor_field(uint32_t bytes) { return (bytes & 0x3FFFFu) >> 4; }

// lead: step between 16-byte columns of core matrices along K (Swizzle::None only). stride: step between groups of 8
// columns of B (rows of its K-major storage).
SMOE_HD constexpr uint64_t wgmma_descriptor(uint32_t address, uint32_t lead, uint32_t stride, Swizzle swizzle) {
  return descriptor_field(address) | descriptor_field(lead) << 16 | descriptor_field(stride) << 32 |
         static_cast<uint64_t>(swizzle) << 62;
}

// Byte address of element (k, n) of B, k in 0..15. Swizzled layouts exchange 16-byte chunks by address bits, so a later
// k step of the same tile is a larger start address and nothing else.
SMOE_HD constexpr uint32_t wgmma_b_address(uint64_t descriptor, int n, int k) {
  const uint32_t start = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
  const uint32_t lead = static_cast<uint32_t>(descriptor >> 16 & 0x3FFF) << 4;
  const uint32_t stride = static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4;
  const uint32_t mode = static_cast<uint32_t>(descriptor >> 62);
  const uint32_t group = static_cast<uint32_t>(n) / 8 * stride, row = static_cast<uint32_t>(n) % 8;
  const uint32_t byte = static_cast<uint32_t>(k) * 2;
  if (mode == 0) return start + group + byte / 16 * lead + row * 16 + byte % 16;
  const uint32_t pitch = mode == 1 ? 128 : mode == 2 ? 64 : 32;
  const uint32_t linear = start + group + row * pitch + byte;
  const uint32_t chunks = pitch / 16 - 1;  // bits 4.. exchanged with bits 7..
  return linear ^ ((linear >> 7 & chunks) << 4);
}

}  // namespace smoe::cu
