// Who touched which byte of shared memory, and what that touch must wait for. Kept per 32-bit word; a word accessed in
// smaller pieces is split into bytes until it is written whole again.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/emu/clock.h"
#include "cuda/emu/report.h"

namespace smoe::cu::emu {

// A tick that nobody ever knows: an async copy in flight.
constexpr uint32_t kPendingTick = 0xFFFFFFFFu;

// The one who accesses: a thread, or (component >= threads) the async proxy on behalf of an mbarrier.
struct Actor {
  int component = 0;       // whose tick the access gets
  uint32_t tick = 0;       // kPendingTick: in flight
  int self = 0;            // thread whose knowledge orders the access
  uint32_t self_tick = 0;  // its present tick
  const Clock* known = nullptr;
  bool async_proxy = false;

  bool knows(int other, uint32_t when) const {
    if (when == kPendingTick) return false;
    return other == self ? when <= self_tick : known->at(other) >= when;
  }
};

struct Conflict {
  Fault kind = Fault::None;
  int other = -1;  // component on the other side
  const char* text = "";
};

class SharedShadow {
 public:
  void reset(size_t bytes, int threads);

  Conflict read(const Actor& actor, uint32_t offset, uint32_t bytes);
  Conflict write(const Actor& actor, uint32_t offset, uint32_t bytes, bool atomic);
  // In-flight accesses of `component` become its accesses at `tick`.
  void settle(uint32_t offset, uint32_t bytes, int component, uint32_t tick);
  // A fence.proxy.async by `thread` at `tick`, when it knew `known`.
  void fence(int thread, uint32_t tick, const Clock& known);

 private:
  // Lanes of one warp that read at the same tick share an entry: reading in step is the common case.
  struct Readers {
    uint32_t tick, lanes;
    int32_t warp;  // a component below zero: the async proxy (~component)
  };
  struct Cell {
    uint32_t serial = 0;  // cells of earlier blocks count as empty
    uint32_t write_tick = 0;
    int16_t writer = -1;
    bool atomic = false, async = false, split = false;
    uint8_t readers = 0;
    Readers reader[2];
    int32_t more = -1;  // index into overflow_
  };
  Cell& fresh(Cell& cell) const;
  template <class Visit>
  Conflict visit(uint32_t offset, uint32_t bytes, bool whole_write, Visit visit);
  Conflict check_read(Cell& cell, const Actor& actor) const;
  Conflict check_write(Cell& cell, const Actor& actor, bool atomic) const;
  bool fenced(const Cell& cell, const Actor& actor) const;
  void note_read(Cell& cell, const Actor& actor);
  bool readers_known(const Readers& readers, const Actor& actor, int* other) const;

  int threads_ = 0;
  uint32_t serial_ = 0;
  std::vector<Cell> words_, bytes_;
  std::vector<std::vector<Readers>> overflow_;
  struct Fence {
    uint32_t tick;
    Clock known;
  };
  std::vector<std::vector<Fence>> fences_;  // of each thread, ticks ascending
  std::vector<int> fencers_;                // threads that have fenced
};

}  // namespace smoe::cu::emu
