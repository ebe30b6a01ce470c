// Embedding: rows of a packed matrix as f32, so that a tied output projection is stored once.
#pragma once

#include "cuda/cu.h"
#include "kernels/experts/atoms.h"
#include "kernels/norm/norm_args.h"

namespace smoe::cu {

constexpr int kEmbedThreads = 256;

// A block per token, a thread per two neighbouring columns, which are one register of one lane of an atom: the inverse
// of a16_element(). The parts of an f32 add up exactly.
SMOE_KERNEL(kEmbedThreads, 1) embed(EmbedArgs args) {
  pdl_wait();
  pdl_trigger();
  const int64_t token = bid();
  if (args.num_tokens != nullptr && token >= ldg(args.num_tokens)) return;
  const int64_t id = ldg(args.ids + token);
  const int row = static_cast<int>(id % kAtomRows), parts = args.table.format == AtomFormat::Bf16x3 ? 3 : 1;
  const U32x4* const block = args.table.atoms + off(id / kAtomRows, atoms_along(args.hidden)) * 32;
  float* const x = args.x + off(token, args.hidden);
  for (int64_t k = 2 * tid(); k < args.hidden; k += 2 * kEmbedThreads) {
    const int col = static_cast<int>(k % kAtomCols);
    const int holder = row % 8 * 4 + col % 8 / 2, reg = row / 8 + 2 * (col / 8);
    const U32x4* const at = block + k / kAtomCols * 32 + holder;
    float low = 0, high = 0;
    for (int p = 0; p < parts; ++p) {
      const uint32_t pair = ldg(reinterpret_cast<const uint32_t*>(at + off(p, args.table.part_step)) + reg);
      low += to_float(half_of(pair, 0));
      high += to_float(half_of(pair, 1));
    }
    stg(x + k, low);
    if (k + 1 < args.hidden) stg(x + k + 1, high);
  }
}

}  // namespace smoe::cu
