// The experts that have tokens, as the blocks of K2 and K3 look them up, and the runs of atoms that a warp streams.
#pragma once

#include "kernels/dispatch/dispatch_bits.cuh"
#include "kernels/experts/code_place.h"
#include "kernels/experts/expert_args.h"
#include "kernels/experts/token_rows.cuh"

namespace smoe::cu {

// Atoms of the least common multiple of an atom, whose columns are a power of two, and a group. 0, that is all of them,
// where it would not fit eight bits.
SMOE_DEVICE int slice_step(int group, int cols) {
  if (group <= 0) return 1;
  const int power = group & -group, step = group / (power < cols ? power : cols);
  return step < 256 ? step : 0;
}

// An expert that has tokens.
struct ActiveExpert {
  const U32x4* atoms;
  uint64_t mask;  // of its tokens
  int32_t expert, row0;
  int32_t cols;   // of an atom; 0: not streamed (Bf16x3)
  int32_t apart;  // of its slices (k_slice)
  int32_t count;
};

// All of them, in shared memory: blocks look these up again and again, each time behind the latency of three dependent
// loads if they lay in global memory. 20 bytes each.
class ActiveList {
 public:
  SMOE_DEVICE ActiveList(unsigned char* shared, int experts)
      : wide_(reinterpret_cast<U32x4*>(shared)), narrow_(reinterpret_cast<uint32_t*>(wide_ + experts)) {}

  SMOE_DEVICE ActiveExpert operator[](int i) const {
    const U32x4 wide = lds(wide_ + i);
    const uint32_t narrow = lds(narrow_ + i), atom = narrow >> 21 & 7;
    ActiveExpert e;
    e.atoms = reinterpret_cast<const U32x4*>(wide.x[0] | uint64_t{wide.x[1]} << 32);
    e.mask = wide.x[2] | uint64_t{wide.x[3]} << 32;
    e.expert = static_cast<int32_t>(narrow & 1023);
    e.row0 = static_cast<int32_t>(narrow >> 10 & 2047);
    e.cols = atom == 0 ? 0 : 8 << atom;
    e.apart = static_cast<int32_t>(narrow >> 24);
    e.count = popc(e.mask);
    return e;
  }

  // By the whole block, which may read the list behind the barrier at the end. Returns how many there are.
  // whole_groups: slices must not cut groups of columns.
  template <bool bf16_only, bool whole_groups = false>
  SMOE_DEVICE int fill(const DispatchBits& plan, const AtomMatrix* weights) const {
    const int active = ldg(plan.active_count);
    for (int i = tid(); i < active; i += nthreads()) {
      const int expert = ldg(plan.active + i), row0 = ldg(plan.offset + expert);
      const AtomMatrix* const matrix = weights + expert;
      const uint64_t mask = ldg(plan.mask + expert), atoms = reinterpret_cast<uint64_t>(ldg(&matrix->atoms));
      const AtomFormat format = bf16_only ? AtomFormat::Bf16 : ldg(&matrix->format);
      const int cols = atom_cols(format), apart = whole_groups ? slice_step(ldg(&matrix->group), cols) : 1;
      // log2 of an atom's columns, less three.
      const int atom = format == AtomFormat::Bf16x3 ? 0 : ffs(static_cast<uint32_t>(cols)) - 4;
      static_assert(kRouteMaxExperts <= 1024 && kDispatchMaxTokens * kRouteMaxSlots <= 2048, "bits of narrow_");
      sts(wide_ + i, U32x4{{low(atoms), high(atoms), low(mask), high(mask)}});
      sts(narrow_ + i, static_cast<uint32_t>(expert | row0 << 10 | atom << 21) | static_cast<uint32_t>(apart) << 24);
    }
    sync();
    return active;
  }

 private:
  SMOE_DEVICE static uint32_t low(uint64_t v) { return static_cast<uint32_t>(v); }
  SMOE_DEVICE static uint32_t high(uint64_t v) { return static_cast<uint32_t>(v >> 32); }

  U32x4* wide_;       // atoms and mask
  uint32_t* narrow_;  // expert, row0, columns of an atom
};

inline size_t active_bytes(int experts) { return static_cast<size_t>(experts) * 20; }

// A warp's items of a block, `item` and every warp-count-th from there: unit first_unit + item / slices. Units are row
// blocks of experts, expert after expert (K2), or of one row block of each expert (K3: one_block >= 0).
struct ItemRuns {
  ActiveList list;
  int64_t k;
  int shift;  // 1 << shift slices
  int first_unit, blocks, one_block;
  int item, items;

  SMOE_DEVICE bool next(const U32x4** from, int* count) {
    if (item >= items) return false;
    const int unit = first_unit + (item >> shift), slices = 1 << shift, slice = item & (slices - 1);
    item += nthreads() / 32;
    const int at = one_block >= 0 ? unit : unit / blocks, block = one_block >= 0 ? one_block : unit - at * blocks;
    const ActiveExpert e = list[at];
    if (e.cols == 0) return true;
    const KSlice part = k_slice(k, e.cols, slice, slices, e.apart);
    *from = e.atoms + off(block, part.atoms) * 32 + part.begin * 32 + lane();
    *count = part.end - part.begin;
    return true;
  }
};

}  // namespace smoe::cu
