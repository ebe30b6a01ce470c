// Atoms of E4M3 floats, laid out as 8-bit integers are.
#pragma once

#include "kernels/experts/atoms_w8.h"

namespace smoe::cu {

struct F8Atoms : ByteAtoms {
  static constexpr AtomFormat kFormat = AtomFormat::F8;
  static constexpr int kZeroCode = 0;
};

}  // namespace smoe::cu
