// Which matrix element lies in which register of which lane (PTX ISA, "Matrix Fragments for mma.m16n8k16" and
// "...m16n8k32", "ldmatrix", "Register Fragments for wgmma.mma_async"). g = lane / 4 and t = lane % 4 throughout. Pure
// functions: packers, kernels and the emulator all use them, and tests check them against the formulas of the manual.
#pragma once

#include "cuda/types.h"

namespace smoe::cu {

struct Element {
  int row, col;
};

// --- 16-bit elements, m16n8k16; `half` is the half of the 32-bit register. B is given as (k, column).
SMOE_HD constexpr Element a16_element(int lane, int reg, int half) {
  return {(lane >> 2) + 8 * (reg & 1), 2 * (lane & 3) + half + 8 * (reg >> 1)};
}
SMOE_HD constexpr Element b16_element(int lane, int reg, int half) {
  return {2 * (lane & 3) + half + 8 * reg, lane >> 2};
}

// --- 8-bit elements, m16n8k32.
SMOE_HD constexpr Element a8_element(int lane, int reg, int byte) {
  return {(lane >> 2) + 8 * (reg & 1), 4 * (lane & 3) + byte + 16 * (reg >> 1)};
}
SMOE_HD constexpr Element b8_element(int lane, int reg, int byte) {
  return {4 * (lane & 3) + byte + 16 * reg, lane >> 2};
}

// --- Accumulators of both, m16n8.
SMOE_HD constexpr Element c_element(int lane, int reg) {
  return {(lane >> 2) + 8 * (reg >> 1), 2 * (lane & 3) + (reg & 1)};
}

// --- Accumulators of wgmma m64nN: `warp` counts within the warpgroup.
SMOE_HD constexpr Element wgmma_d_element(int warp, int lane, int reg) {
  return {16 * warp + (lane >> 2) + 8 * ((reg >> 1) & 1), 8 * (reg >> 2) + 2 * (lane & 3) + (reg & 1)};
}

// --- ldmatrix: register i of a lane holds two neighbours of 8x8 matrix i; the row address of row r of matrix i comes
// from lane 8i + r.
// With .trans, row and column of that change places.
SMOE_HD constexpr Element ldmatrix_element(int lane, int half) { return {lane >> 2, 2 * (lane & 3) + half}; }

// --- Order pi of one 32-block of K (specs/cuda-kernels.md 2.2): the physical column of logical slot s of a byte mma.
// Slots 4t + i and 16 + 4t + i are columns 2t + {0, 8, 1, 9}[i] of the first and of the second 16: the four that a lane
// holds of one k16 step in either register of a row. One packing of the weights so feeds 16-bit and byte instructions,
// whatever the width of its codes, and one order of int8 activations serves all of them.
SMOE_HD constexpr int physical_k(int slot) {
  return 16 * (slot >> 4) + 2 * ((slot & 15) >> 2) + 8 * (slot & 1) + ((slot >> 1) & 1);
}

}  // namespace smoe::cu
