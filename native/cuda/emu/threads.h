// The wrappers of cu.h in emulation: indices, launches, barriers and warp collectives. device/threads.h is the twin.
#pragma once

#include <cmath>
#include <cstddef>
#include <type_traits>

#include "cuda/emu/device.h"
#include "cuda/types.h"

namespace smoe::cu {

#define SMOE_DEVICE inline
#define SMOE_UNROLL
#define SMOE_UNROLL4
#define SMOE_UNROLL1
#define SMOE_KERNEL(threads, min_blocks) [[maybe_unused]] static void

using Stream = emu::Device*;

// --- indices, one-dimensional
inline int tid() { return emu::engine().self().id; }
inline int lane() { return emu::engine().lane(); }
inline int lane_read_here() { return lane(); }
inline int warp() { return emu::engine().warp(); }
inline int nthreads() { return emu::engine().shape().threads; }
inline int bid() { return static_cast<int>(emu::engine().block()); }
inline int nblocks() { return static_cast<int>(emu::engine().shape().blocks); }

// --- launches. 0, or an error that the stream's report explains.
struct Shape {
  int64_t blocks = 1;
  int threads = 32;
  size_t shared = 0;
  bool pdl = false;
};

template <class Args>
int launch(Stream stream, const Shape& shape, void (*kernel)(Args), const Args& args) {
  static_assert(std::is_trivially_copyable_v<Args> && alignof(Args) <= alignof(std::max_align_t), "recorded as bytes");
  const auto body = [](const void* k, const void* a) {
    (*static_cast<void (*const*)(Args)>(k))(*static_cast<const Args*>(a));
  };
  return stream->launch({shape.blocks, shape.threads, shape.shared, shape.pdl}, body, &kernel, sizeof kernel, &args,
                        sizeof args);
}

// --- barriers
inline void sync(emu::Site at = emu::Site::here()) { emu::engine().barrier(0, nthreads(), true, at); }
inline void bar(int id, int count, emu::Site at = emu::Site::here()) { emu::engine().barrier(id, count, true, at); }
inline void bar_arrive(int id, int count, emu::Site at = emu::Site::here()) {
  emu::engine().barrier(id, count, false, at);
}

namespace emu {

constexpr uint32_t kFullMask = 0xFFFFFFFFu;

template <class Visit>
void each_lane(uint32_t mask, Visit visit) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) visit(__builtin_ctz(rest));
}

void apply_sync_warp(Engine& engine, int warp, uint32_t mask, void* const* lanes);

// What a lane brings to a shuffle, and takes away.
template <class T>
struct Shuffle {
  T value, result;
  int source;  // lane, or -1: keeps its own
};

template <class T>
void apply_shuffle(Engine&, int, uint32_t mask, void* const* lanes) {
  T values[32];
  each_lane(mask, [&](int lane) { values[lane] = static_cast<Shuffle<T>*>(lanes[lane])->value; });
  each_lane(mask, [&](int lane) {
    Shuffle<T>& mine = *static_cast<Shuffle<T>*>(lanes[lane]);
    // Reading a lane outside the mask gives an undefined value: here, visibly wrong bits.
    if (mine.source < 0) {
      mine.result = mine.value;
    } else if ((mask >> mine.source & 1) != 0) {
      mine.result = values[mine.source];
    } else {
      std::memset(&mine.result, 0xFF, sizeof(T));
    }
  });
}

template <class T>
T shuffle(T value, int source, uint32_t mask, Site at) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  Shuffle<T> mine{value, value, source};
  engine().collective(&apply_shuffle<T>, mask, &mine, at);
  return mine.result;
}

struct Vote {
  bool predicate;
  uint32_t result;
};
void apply_ballot(Engine&, int, uint32_t mask, void* const* lanes);
struct Match {
  uint32_t value, result;
};
void apply_match(Engine&, int, uint32_t mask, void* const* lanes);
struct Extremes {
  uint32_t value, lowest, highest;
};
void apply_extremes(Engine&, int, uint32_t mask, void* const* lanes);

}  // namespace emu

// --- warp operations. `mask` names the lanes that take part; all of them must come, at the same place.
inline void sync_warp(uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  emu::engine().collective(&emu::apply_sync_warp, mask, nullptr, at);
}
template <class T>
T shfl(T value, int source, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  return emu::shuffle(value, source & 31, mask, at);
}
template <class T>
T shfl_xor(T value, int bits, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  return emu::shuffle(value, lane() ^ bits, mask, at);
}
template <class T>
T shfl_up(T value, int delta, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  return emu::shuffle(value, lane() - delta < 0 ? -1 : lane() - delta, mask, at);
}
template <class T>
T shfl_down(T value, int delta, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  return emu::shuffle(value, lane() + delta > 31 ? -1 : lane() + delta, mask, at);
}
inline uint32_t ballot(bool predicate, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  emu::Vote mine{predicate, 0};
  emu::engine().collective(&emu::apply_ballot, mask, &mine, at);
  return mine.result;
}
inline bool any(bool predicate, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  return ballot(predicate, mask, at) != 0;
}
inline bool all(bool predicate, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  return ballot(predicate, mask, at) == mask;
}
inline uint32_t match_any(uint32_t value, uint32_t mask = emu::kFullMask, emu::Site at = emu::Site::here()) {
  emu::Match mine{value, 0};
  emu::engine().collective(&emu::apply_match, mask, &mine, at);
  return mine.result;
}
inline uint32_t warp_max_of(uint32_t value, emu::Site at = emu::Site::here()) {
  emu::Extremes mine{value, 0, 0};
  emu::engine().collective(&emu::apply_extremes, emu::kFullMask, &mine, at);
  return mine.highest;
}
inline uint32_t warp_min_of(uint32_t value, emu::Site at = emu::Site::here()) {
  emu::Extremes mine{value, 0, 0};
  emu::engine().collective(&emu::apply_extremes, emu::kFullMask, &mine, at);
  return mine.lowest;
}

// --- programmatic dependent launch
inline void pdl_wait() { emu::engine().pdl_wait(); }
inline void pdl_trigger(emu::Site at = emu::Site::here()) { emu::engine().pdl_trigger(at); }

// --- pure functions
inline int popc(uint32_t x) { return __builtin_popcount(x); }
inline int popc(uint64_t x) { return __builtin_popcountll(x); }
inline int ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
inline int ffs(uint64_t x) { return __builtin_ffsll(static_cast<long long>(x)); }
inline int clz(uint32_t x) { return x == 0 ? 32 : __builtin_clz(x); }
inline float fma(float a, float b, float c) { return std::fmaf(a, b, c); }
// Bytes of a (0..3) and b (4..7) picked by the nibbles of s; bit 3 of a nibble spreads the byte's sign (PTX "prmt").
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t s) {
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = s >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(both >> (8 * (pick & 7))) & 0xFF;
    if ((pick & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
    result |= byte << (8 * i);
  }
  return result;
}
// Any function of three bits, by its truth table (PTX "lop3").
template <int table>
uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int row = 0; row < 8; ++row) {
    if ((table >> row & 1) == 0) continue;
    result |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
  }
  return result;
}
// to_float(f16) of types.h; one instruction on a GPU. The bits of the f16 are the lower half of `bits`.
inline float half_to_float(uint32_t bits) { return to_float(f16{static_cast<uint16_t>(bits)}); }
// a*b+c of both bf16 halves, each rounded once.
uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c);
// pack2() of types.h; one instruction on a GPU.
inline uint32_t round_bf16x2(float low, float high) { return pack2(low, high); }
// Approximate on a GPU.
inline float fast_exp(float x) { return std::exp(x); }
inline float fast_divide(float a, float b) { return a / b; }
// An element offset as a product of sizes: 64 bits, checked.
inline int64_t off(int64_t a, int64_t b, emu::Site at = emu::Site::here()) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) emu::engine().fault(emu::Fault::Overflow, at, "an offset passes 64 bits");
  return product;
}

}  // namespace smoe::cu
