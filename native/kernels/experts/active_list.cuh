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

// Token tiles of the kernel for so many tokens: as many as an expert can need, or, where the share of an expert is
// known, as many as one in about forty exceeds under uniform routing. Those that do are taken in several parts, whose
// weights are read again: at most as many bytes as uniform routing reads.
inline int decode_tiles(int tokens, int slots, int experts) {
  const int most = tokens <= 8 ? 1 : tokens <= 16 ? 2 : tokens <= 32 ? 4 : 8;
  if (slots <= 0) return most;
  const int share = (tokens * slots + experts - 1) / experts;
  const int usual = share <= 4 ? 1 : share <= 10 ? 2 : share <= 23 ? 4 : 8;
  return usual < most ? usual : most;
}

// An expert that has tokens, or a part of those tokens.
struct ActiveExpert {
  const U32x4* atoms;
  uint64_t mask;  // of its tokens
  int32_t expert, row0;
  int32_t cols;   // of an atom; 0: not streamed (Bf16x3)
  int32_t apart;  // of its slices (k_slice)
  int32_t count;
};

// Entries of a list at most, and experts of several parts.
SMOE_HD constexpr int list_split(int tokens, int slots, int tiles) {
  return slots <= 0 ? 0 : (tokens < kDispatchMaxTokens ? tokens : kDispatchMaxTokens) * slots / (8 * tiles);
}
SMOE_HD constexpr int list_entries(int experts, int tokens, int slots, int tiles) {
  return experts + list_split(tokens, slots, tiles);
}
inline size_t active_bytes(int experts, int tokens, int slots, int tiles) {
  return static_cast<size_t>(list_entries(experts, tokens, slots, tiles)) * 20 +
         static_cast<size_t>(list_split(tokens, slots, tiles) + 1) * 4;
}

// All of them, in ascending order, in shared memory: blocks look these up again and again, each time behind the latency
// of three dependent loads if they lay in global memory. 20 bytes each. An expert with more than 8 NT tokens has
// several entries.
template <int NT>
class ActiveList {
 public:
  SMOE_DEVICE ActiveList(unsigned char* shared, int experts, int tokens, int slots)
      : wide_(reinterpret_cast<U32x4*>(shared)),
        narrow_(reinterpret_cast<uint32_t*>(wide_ + list_entries(experts, tokens, slots, NT))),
        split_(narrow_ + list_entries(experts, tokens, slots, NT)) {}

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

  // By the whole block, which may read the list behind the barrier at the end. Returns how many entries there are.
  // whole_groups: slices must not cut groups of columns.
  template <bool bf16_only, bool whole_groups = false>
  SMOE_DEVICE int fill(const DispatchBits& plan, const AtomMatrix* weights) const {
    if (tid() == 0) sts(split_, 0u);
    sync();
    const int active = ldg(plan.active_count);
    for (int i = tid(); i < active; i += nthreads()) {
      const int parts = put<bf16_only, whole_groups>(plan, weights, i, i, 1);
      if (parts > 1) sts(split_ + 1 + atomic_add_shared(split_, 1u), static_cast<uint32_t>(i << 8 | (parts - 1)));
    }
    sync();
    const int split = static_cast<int>(lds(split_));
    if (split == 0) return active;
    // Rare. The order in which threads noted what to split does not show in the places.
    int entries = active;
    for (int s = 0; s < split; ++s) entries += static_cast<int>(lds(split_ + 1 + s) & 255);
    for (int i = tid(); i < active; i += nthreads()) {
      int place = i;
      for (int s = 0; s < split; ++s) {
        const uint32_t noted = lds(split_ + 1 + s);
        if (static_cast<int>(noted >> 8) < i) place += static_cast<int>(noted & 255);
      }
      put<bf16_only, whole_groups>(plan, weights, i, place, 8);
    }
    sync();
    return entries;
  }

 private:
  SMOE_DEVICE static uint32_t low(uint64_t v) { return static_cast<uint32_t>(v); }
  SMOE_DEVICE static uint32_t high(uint64_t v) { return static_cast<uint32_t>(v >> 32); }

  // The parts of active expert i from place `place` on, at most `most` of them. Returns how many it has.
  template <bool bf16_only, bool whole_groups>
  SMOE_DEVICE int put(const DispatchBits& plan, const AtomMatrix* weights, int i, int place, int most) const {
    const int expert = ldg(plan.active + i), row0 = ldg(plan.offset + expert);
    const AtomMatrix* const matrix = weights + expert;
    uint64_t mask = ldg(plan.mask + expert);
    const uint64_t atoms = reinterpret_cast<uint64_t>(ldg(&matrix->atoms));
    const AtomFormat format = bf16_only ? AtomFormat::Bf16 : ldg(&matrix->format);
    const int cols = atom_cols(format), apart = whole_groups ? slice_step(ldg(&matrix->group), cols) : 1;
    // log2 of an atom's columns, less three.
    const int atom = format == AtomFormat::Bf16x3 ? 0 : ffs(static_cast<uint32_t>(cols)) - 4;
    static_assert(kRouteMaxExperts <= 1024 && kDispatchMaxTokens * kRouteMaxSlots <= 2048, "bits of narrow_");
    const int parts = (popc(mask) + 8 * NT - 1) / (8 * NT);
    for (int part = 0; part < parts && part < most; ++part) {
      uint64_t rest = mask;  // without this part's tokens
      for (int n = 0; n < 8 * NT && NT < 8; ++n) rest &= rest - 1;
      const uint64_t mine = NT < 8 ? mask & ~rest : mask;
      const int row = row0 + part * 8 * NT;
      sts(wide_ + place + part, U32x4{{low(atoms), high(atoms), low(mine), high(mine)}});
      sts(narrow_ + place + part, static_cast<uint32_t>(expert | row << 10 | atom << 21) | static_cast<uint32_t>(apart)
                                                                                               << 24);
      mask = rest;
    }
    return parts;
  }

  U32x4* wide_;       // atoms and mask
  uint32_t* narrow_;  // expert, row0, columns of an atom
  uint32_t* split_;   // how many experts have several parts; which, and how many parts more than one
};

// A warp's items of a block, `item` and every warp-count-th from there: unit first_unit + item / slices. Units are row
// blocks of experts, expert after expert (K2), or of one row block of each expert (K3: one_block >= 0).
template <int NT>
struct ItemRuns {
  ActiveList<NT> list;
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
