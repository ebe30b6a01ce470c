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

// Entries of a list at most.
SMOE_HD constexpr int list_entries(int experts, int tokens, int slots, int tiles) {
  const int parts = slots <= 0 ? 0 : (tokens < kDispatchMaxTokens ? tokens : kDispatchMaxTokens) * slots / (8 * tiles);
  return experts + parts;
}
constexpr int kListWarps = 16;
inline size_t active_bytes(int experts, int tokens, int slots, int tiles) {
  return static_cast<size_t>(list_entries(experts, tokens, slots, tiles)) * 20 + kListWarps * 4;
}

// What a list has of an expert's matrix. Of the constant table, so that a kernel may ask for it while it waits for the
// launch before: another layer's table has driven it out of the caches.
struct ListedMatrix {
  uint64_t atoms;
  int cols;   // of an atom; 0: Bf16x3
  int apart;  // of slices
};
template <bool bf16_only, bool whole_groups>
SMOE_DEVICE ListedMatrix listed_matrix(const AtomMatrix* matrix) {
  const AtomFormat format = bf16_only ? AtomFormat::Bf16 : ldg(&matrix->format);
  const int cols = atom_cols(format);
  return {reinterpret_cast<uint64_t>(ldg(&matrix->atoms)), format == AtomFormat::Bf16x3 ? 0 : cols,
          whole_groups ? slice_step(ldg(&matrix->group), cols) : 1};
}

// All of them, in ascending order, in shared memory: blocks look these up again and again, each time behind the latency
// of three dependent loads if they lay in global memory. 20 bytes each. An expert with more than 8 NT tokens has
// several entries.
template <int NT>
class ActiveList {
 public:
  SMOE_DEVICE ActiveList(unsigned char* shared, int experts, int tokens, int slots)
      : experts_(experts),
        wide_(reinterpret_cast<U32x4*>(shared)),
        narrow_(reinterpret_cast<uint32_t*>(wide_ + list_entries(experts, tokens, slots, NT))),
        totals_(narrow_ + list_entries(experts, tokens, slots, NT)) {}

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

  // Of the first expert that fill() gives this thread.
  template <bool bf16_only, bool whole_groups = false>
  SMOE_DEVICE ListedMatrix first(const AtomMatrix* weights) const {
    return listed_matrix<bf16_only, whole_groups>(weights + (tid() < experts_ ? tid() : 0));
  }
  // By the whole block, which may read the list behind the barrier at the end. Returns how many entries there are.
  // whole_groups: slices must not cut groups of columns. matrix: what first() gave. Every expert is asked for its
  // tokens, all at a time: one latency, where the list of active ones would cost one more for their number and one for
  // their ids.
  template <bool bf16_only, bool whole_groups = false>
  SMOE_DEVICE int fill(const DispatchBits& plan, const AtomMatrix* weights, ListedMatrix matrix) const {
    int entries = 0;
    for (int first = 0; first < experts_; first += nthreads()) {
      const int expert = first + tid();
      const bool real = expert < experts_;
      const uint64_t mask = real ? ldg(plan.mask + expert) : 0;
      const int row0 = real ? ldg(plan.offset + expert) : 0;
      if (first > 0) {
        matrix = listed_matrix<bf16_only, whole_groups>(weights + (real ? expert : 0));
        sync();  // the totals before have been read
      }
      const uint64_t atoms = matrix.atoms;
      const int parts = (popc(mask) + 8 * NT - 1) / (8 * NT);
      int until = parts;  // entries up to this expert's last
      for (int delta = 1; delta < 32; delta *= 2) {
        const int lower = shfl_up(until, delta);
        if (lane() >= delta) until += lower;
      }
      if (lane() == 31) sts(totals_ + warp(), static_cast<uint32_t>(until));
      sync();
      int place = entries + until - parts;
      for (int w = 0; w < nthreads() / 32; ++w) {
        const int total = static_cast<int>(lds(totals_ + w));
        if (w < warp()) place += total;
        entries += total;
      }
      // log2 of an atom's columns, less three.
      const int atom = matrix.cols == 0 ? 0 : ffs(static_cast<uint32_t>(matrix.cols)) - 4;
      static_assert(kRouteMaxExperts <= 1024 && kDispatchMaxTokens * kRouteMaxSlots <= 2048, "bits of narrow_");
      uint64_t left = mask;
      for (int part = 0; part < parts; ++part) {
        uint64_t rest = left;  // without this part's tokens
        for (int n = 0; n < 8 * NT && NT < 8; ++n) rest &= rest - 1;
        const uint64_t mine = NT < 8 ? left & ~rest : left;
        sts(wide_ + place + part, U32x4{{low(atoms), high(atoms), low(mine), high(mine)}});
        sts(narrow_ + place + part, static_cast<uint32_t>(expert | (row0 + part * 8 * NT) << 10 | atom << 21) |
                                        static_cast<uint32_t>(matrix.apart) << 24);
        left = rest;
      }
    }
    sync();
    return entries;
  }

 private:
  SMOE_DEVICE static uint32_t low(uint64_t v) { return static_cast<uint32_t>(v); }
  SMOE_DEVICE static uint32_t high(uint64_t v) { return static_cast<uint32_t>(v >> 32); }

  int experts_;
  U32x4* wide_;       // atoms and mask
  uint32_t* narrow_;  // expert, row0, columns of an atom
  uint32_t* totals_;  // entries of each warp's experts
};

// Of experts whose matrices are each one run.
struct NoPlanes {
  SMOE_DEVICE bool next(ActiveExpert*) { return true; }
};

// A warp's items of a block, `item` and every warp-count-th from there: unit first_unit + item / slices. Units are row
// blocks of experts, expert after expert (K2), or of one row block of each expert (K3: one_block >= 0). An item has one
// run, or with PlaneRuns several: parts.next(&e) makes `e` the next of them and says whether it is the last.
template <int NT, class Parts>
struct ItemRuns {
  ActiveList<NT> list;
  int64_t k;
  int shift;  // 1 << shift slices
  int first_unit, blocks, one_block;
  int item, items;
  Parts parts;

  SMOE_DEVICE bool next(const U32x4** from, int* count) {
    if (item >= items) return false;
    const int unit = first_unit + (item >> shift), slices = 1 << shift, slice = item & (slices - 1);
    const int at = one_block >= 0 ? unit : unit / blocks, block = one_block >= 0 ? one_block : unit - at * blocks;
    ActiveExpert e = list[at];
    if (parts.next(&e)) item += nthreads() / 32;
    if (e.cols == 0) return true;
    const KSlice part = k_slice(k, e.cols, slice, slices, e.apart);
    *from = e.atoms + off(block, part.atoms) * 32 + part.begin * 32 + lane();
    *count = part.end - part.begin;
    return true;
  }
};

}  // namespace smoe::cu
