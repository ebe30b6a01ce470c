// Warp collectives that are no templates.
#include <cmath>

#include "cuda/emu/memory.h"
#include "cuda/emu/threads.h"

namespace smoe::cu {
namespace emu {

// The only warp operation that orders memory (CUDA C++ Programming Guide, "Synchronization Functions"): shuffles and
// votes do not.
void apply_sync_warp(Engine& engine, int warp, uint32_t mask, void* const*) {
  if (!engine.tracking()) return;
  Meeting meeting;
  meeting.reset(engine.components());
  each_lane(mask, [&](int lane) {
    Thread& thread = engine.thread(warp * 32 + lane);
    meeting.arrive(thread.known, thread.id, thread.tick++);
  });
  const Clock after = meeting.result();
  each_lane(mask, [&](int lane) { engine.thread(warp * 32 + lane).known = after; });
}

void apply_ballot(Engine&, int, uint32_t mask, void* const* lanes) {
  uint32_t votes = 0;
  each_lane(mask,
            [&](int lane) { votes |= static_cast<uint32_t>(static_cast<Vote*>(lanes[lane])->predicate) << lane; });
  each_lane(mask, [&](int lane) { static_cast<Vote*>(lanes[lane])->result = votes; });
}

void apply_match(Engine&, int, uint32_t mask, void* const* lanes) {
  each_lane(mask, [&](int lane) {
    Match& mine = *static_cast<Match*>(lanes[lane]);
    mine.result = 0;
    each_lane(mask, [&](int other) {
      if (static_cast<Match*>(lanes[other])->value == mine.value) mine.result |= 1u << other;
    });
  });
}

void apply_extremes(Engine&, int, uint32_t mask, void* const* lanes) {
  uint32_t lowest = ~0u, highest = 0;
  each_lane(mask, [&](int lane) {
    const uint32_t value = static_cast<Extremes*>(lanes[lane])->value;
    if (value < lowest) lowest = value;
    if (value > highest) highest = value;
  });
  each_lane(mask, [&](int lane) {
    Extremes& mine = *static_cast<Extremes*>(lanes[lane]);
    mine.lowest = lowest;
    mine.highest = highest;
  });
}

}  // namespace emu

namespace {

// The last bit of a rounded value made odd when it is inexact: rounding it again, to fewer bits, is then as rounding
// the exact value once (Boldo and Melquiond 2008). error: exact value minus `rounded`, in sign at least.
template <class Bits, class Float>
Float to_odd(Float rounded, double error) {
  const Bits bits = bit_cast<Bits>(rounded);
  if (error == 0 || (bits & 1) != 0 || !std::isfinite(rounded)) return rounded;
  const bool magnitude_grows = (error > 0) == (rounded > 0);
  return bit_cast<Float>(magnitude_grows ? bits + 1 : bits - 1);
}

bf16 fma_once(double x, double y, double z) {
  const double product = x * y;  // exact: 16 significant bits
  const double sum = product + z, part = sum - product;
  const double error = (product - (sum - part)) + (z - part);  // exact (Knuth's TwoSum)
  if (!std::isfinite(sum)) return to_bf16(static_cast<float>(sum));
  const double odd = to_odd<uint64_t>(sum, error);
  const float single = static_cast<float>(odd);
  return to_bf16(to_odd<uint32_t>(single, odd - static_cast<double>(single)));
}

}  // namespace

uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  bf16 half[2];
  for (int i = 0; i < 2; ++i) {
    half[i] = fma_once(to_float(half_of(a, i)), to_float(half_of(b, i)), to_float(half_of(c, i)));
  }
  return pack2(half[0], half[1]);
}

}  // namespace smoe::cu
