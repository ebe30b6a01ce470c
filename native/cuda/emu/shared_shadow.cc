#include "cuda/emu/shared_shadow.h"

#include <algorithm>

namespace smoe::cu::emu {

void SharedShadow::reset(size_t bytes, int threads) {
  const size_t words = (bytes + 3) / 4;
  if (words_.size() < words) words_.resize(words);
  if (bytes_.size() < words * 4) bytes_.resize(words * 4);
  ++serial_;
  threads_ = threads;
  overflow_.clear();
  fences_.assign(static_cast<size_t>(threads), {});
  fencers_.clear();
}

void SharedShadow::fence(int thread, uint32_t tick, const Clock& known) {
  std::vector<Fence>& mine = fences_[static_cast<size_t>(thread)];
  if (mine.empty()) fencers_.push_back(thread);
  mine.push_back({tick, known});
}

SharedShadow::Cell& SharedShadow::fresh(Cell& cell) const {
  if (cell.serial != serial_) {
    cell = Cell();
    cell.serial = serial_;
  }
  return cell;
}

template <class Visit>
Conflict SharedShadow::visit(uint32_t offset, uint32_t bytes, bool whole_write, Visit visit) {
  const uint32_t end = offset + bytes;
  while (offset < end) {
    Cell& word = fresh(words_[offset / 4]);
    const bool whole = offset % 4 == 0 && end - offset >= 4;
    if (whole && !word.split) {
      const Conflict conflict = visit(word);
      if (conflict.kind != Fault::None) return conflict;
      offset += 4;
      continue;
    }
    Cell* const cells = &bytes_[offset / 4 * 4];
    if (!word.split) {
      for (int i = 0; i < 4; ++i) {
        cells[i] = word;
        if (word.more >= 0) {
          overflow_.push_back(overflow_[static_cast<size_t>(word.more)]);
          cells[i].more = static_cast<int32_t>(overflow_.size() - 1);
        }
      }
      word.split = true;
    }
    const uint32_t stop = std::min(end, offset / 4 * 4 + 4);
    for (; offset < stop; ++offset) {
      const Conflict conflict = visit(cells[offset % 4]);
      if (conflict.kind != Fault::None) return conflict;
    }
    if (whole && whole_write) {
      word = cells[0];
      word.split = false;
    }
  }
  return {};
}

bool SharedShadow::readers_known(const Readers& readers, const Actor& actor, int* other) const {
  if (readers.warp < 0) {
    *other = ~readers.warp;
    return actor.knows(*other, readers.tick);
  }
  for (uint32_t rest = readers.lanes; rest != 0; rest &= rest - 1) {
    *other = readers.warp * 32 + __builtin_ctz(rest);
    if (!actor.knows(*other, readers.tick)) return false;
  }
  return true;
}

// The async proxy sees generic writes only behind a fence.proxy.async that lies between the two in causality order: by
// the writer after them, or by a thread that knew of them, and known itself (specs/cuda-kernels.md 2.6; PTX ISA,
// "Causality order": proxy-preserved base causality order).
bool SharedShadow::fenced(const Cell& cell, const Actor& actor) const {
  if (!actor.async_proxy || cell.async || cell.writer < 0 || cell.writer >= threads_) return true;
  const auto by = [&](int thread) {
    const std::vector<Fence>& fences = fences_[static_cast<size_t>(thread)];
    const auto before = [&](const Fence& fence) {
      return (thread == cell.writer ? fence.tick : fence.known.at(cell.writer)) < cell.write_tick;
    };
    // What a thread knows grows: the first fence behind the write is the one that others know of first.
    const auto first = std::partition_point(fences.begin(), fences.end(), before);
    return first != fences.end() && actor.knows(thread, first->tick);
  };
  return by(cell.writer) || std::any_of(fencers_.begin(), fencers_.end(), by);
}

Conflict SharedShadow::check_read(Cell& cell, const Actor& actor) const {
  if (cell.writer < 0) return {Fault::ReadBeforeWrite, -1, "shared memory that no thread of the block has written"};
  if (cell.write_tick == kPendingTick) {
    return {Fault::PendingCopy, cell.writer, "reads shared memory while an async copy into it is in flight"};
  }
  if (!actor.knows(cell.writer, cell.write_tick)) {
    return {Fault::SharedRace, cell.writer, "reads shared memory written without a barrier in between by"};
  }
  if (!fenced(cell, actor)) {
    return {Fault::ProxyFence, cell.writer,
            "the async proxy reads generic writes without fence_proxy_async after them by"};
  }
  return {};
}

Conflict SharedShadow::check_write(Cell& cell, const Actor& actor, bool atomic) const {
  const bool both_atomic = atomic && cell.atomic;
  if (cell.writer >= 0 && !both_atomic) {
    if (cell.write_tick == kPendingTick) {
      return {Fault::PendingCopy, cell.writer, "writes shared memory while an async copy into it is in flight"};
    }
    if (!actor.knows(cell.writer, cell.write_tick)) {
      return {Fault::SharedRace, cell.writer, "writes shared memory written without a barrier in between by"};
    }
    if (!fenced(cell, actor)) {
      return {Fault::ProxyFence, cell.writer, "the async proxy overwrites generic writes without fence_proxy_async by"};
    }
  }
  int other = -1;
  for (int i = 0; i < cell.readers; ++i) {
    if (!readers_known(cell.reader[i], actor, &other)) {
      return {Fault::SharedRace, other, "writes shared memory read without a barrier in between by"};
    }
  }
  if (cell.more >= 0) {
    for (const Readers& readers : overflow_[static_cast<size_t>(cell.more)]) {
      if (!readers_known(readers, actor, &other)) {
        return {Fault::SharedRace, other, "writes shared memory read without a barrier in between by"};
      }
    }
  }
  return {};
}

void SharedShadow::note_read(Cell& cell, const Actor& actor) {
  const bool thread = actor.component < threads_;
  const int32_t warp = thread ? actor.component / 32 : ~actor.component;
  const uint32_t lane = thread ? 1u << (actor.component % 32) : 1u;
  const auto merge = [&](Readers& readers) {
    if (readers.warp != warp || readers.tick != actor.tick) return false;
    readers.lanes |= lane;
    return true;
  };
  for (int i = 0; i < cell.readers; ++i) {
    if (merge(cell.reader[i])) return;
  }
  // Readers that this one knows are covered by it: whoever comes after this read comes after those.
  int other;
  for (int i = 0; i < cell.readers; ++i) {
    if (readers_known(cell.reader[i], actor, &other)) {
      cell.reader[i] = {actor.tick, lane, warp};
      return;
    }
  }
  if (cell.readers < 2) {
    cell.reader[cell.readers++] = {actor.tick, lane, warp};
    return;
  }
  if (cell.more < 0) {
    cell.more = static_cast<int32_t>(overflow_.size());
    overflow_.emplace_back();
  }
  std::vector<Readers>& rest = overflow_[static_cast<size_t>(cell.more)];
  for (Readers& readers : rest) {
    if (merge(readers)) return;
  }
  rest.push_back({actor.tick, lane, warp});
}

Conflict SharedShadow::read(const Actor& actor, uint32_t offset, uint32_t bytes) {
  return visit(offset, bytes, false, [&](Cell& cell) {
    fresh(cell);
    const Conflict conflict = check_read(cell, actor);
    if (conflict.kind == Fault::None) note_read(cell, actor);
    return conflict;
  });
}

Conflict SharedShadow::write(const Actor& actor, uint32_t offset, uint32_t bytes, bool atomic) {
  return visit(offset, bytes, true, [&](Cell& cell) {
    fresh(cell);
    const Conflict conflict = check_write(cell, actor, atomic);
    if (conflict.kind != Fault::None) return conflict;
    cell.writer = static_cast<int16_t>(actor.component);
    cell.write_tick = actor.tick;
    cell.atomic = atomic;
    cell.async = actor.async_proxy;
    cell.readers = 0;
    if (cell.more >= 0) overflow_[static_cast<size_t>(cell.more)].clear();
    return conflict;
  });
}

void SharedShadow::settle(uint32_t offset, uint32_t bytes, int component, uint32_t tick) {
  const int32_t warp = component < threads_ ? component / 32 : ~component;
  visit(offset, bytes, false, [&](Cell& cell) {
    for (int i = 0; i < cell.readers; ++i) {
      if (cell.reader[i].warp == warp && cell.reader[i].tick == kPendingTick) cell.reader[i].tick = tick;
    }
    if (cell.more >= 0) {
      for (Readers& readers : overflow_[static_cast<size_t>(cell.more)]) {
        if (readers.warp == warp && readers.tick == kPendingTick) readers.tick = tick;
      }
    }
    if (cell.writer == component && cell.write_tick == kPendingTick) cell.write_tick = tick;
    return Conflict();
  });
}

}  // namespace smoe::cu::emu
