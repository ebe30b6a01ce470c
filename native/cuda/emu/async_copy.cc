// cp.async groups, mbarriers and bulk copies. A copy is pending from its issue until the wait that covers it, whenever
// its bytes move: eager mode moves them at once, lazy mode at the last moment.
#include <cstring>

#include "cuda/emu/engine.h"

namespace smoe::cu::emu {
namespace {

void move_bytes(unsigned char* arena, const CopyTask& task) {
  if (task.zero) {
    std::memset(arena + task.to, 0, task.bytes);
  } else {
    std::memcpy(arena + task.to, task.from, task.bytes);
  }
}

}  // namespace

void Engine::copy_async(void* to, const void* from, bool real, Site site) {
  CopyTask task;
  task.bytes = 16;
  task.to = shared_offset(to, 16, site);
  task.from = from;
  task.zero = !real;
  task.site = site;
  if (real) global_read(from, 16, site);
  if (tracking()) {
    Actor writer = actor(*current_);
    writer.tick = kPendingTick;
    const Conflict conflict = shadow_.write(writer, task.to, 16, false);
    if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(task.to));
  }
  if (!lazy()) move_bytes(arena_, task);
  current_->open_copies.push_back(task);
}

void Engine::copy_commit() {
  current_->copy_groups.emplace_back();
  current_->copy_groups.back().swap(current_->open_copies);
}

void Engine::copy_wait(size_t pending, Site) {
  Thread& thread = *current_;
  while (thread.copy_groups.size() > pending) {
    for (const CopyTask& task : thread.copy_groups.front()) {
      if (lazy()) move_bytes(arena_, task);
      if (tracking()) shadow_.settle(task.to, task.bytes, thread.id, thread.tick);
    }
    thread.copy_groups.pop_front();
  }
}

// Covers committed groups too; a later copy_wait finds nothing left of them.
void Engine::copy_arrive(void* bar, Site site) {
  mbarrier_at(bar, site);
  Thread& thread = *current_;
  CopyArrival arrival;
  arrival.thread = thread.id;
  arrival.tick = thread.tick++;
  arrival.mbarrier = shared_offset(bar, 8, site);
  arrival.known = thread.known;
  for (const std::vector<CopyTask>& group : thread.copy_groups) {
    arrival.copies.insert(arrival.copies.end(), group.begin(), group.end());
  }
  arrival.copies.insert(arrival.copies.end(), thread.open_copies.begin(), thread.open_copies.end());
  thread.copy_groups.clear();
  thread.open_copies.clear();
  if (lazy()) {
    arrivals_.push_back(std::move(arrival));
  } else {
    arrive_behind(arrival);
  }
}

void Engine::arrive_behind(CopyArrival& arrival) {
  for (const CopyTask& task : arrival.copies) {
    if (lazy()) move_bytes(arena_, task);
    if (tracking()) shadow_.settle(task.to, task.bytes, arrival.thread, arrival.tick);
  }
  Mbarrier& at = mbarriers_.at(arrival.mbarrier);
  if (at.pending == 0) {
    fault(Fault::MbarrierMisuse, at.site,
          "more arrivals in a phase than the " + std::to_string(at.count) + " announced");
  }
  if (tracking()) at.meeting.arrive(arrival.known, arrival.thread, arrival.tick);
  ++progress_;
  --at.pending;
  maybe_complete(at);
}

void Engine::mbarrier_init(void* bar, uint32_t count, Site site) {
  const uint32_t offset = shared_offset(bar, 8, site);
  shared_write(bar, 8, false, site);
  const auto [place, added] = mbarriers_.try_emplace(offset);
  if (!added) fault(Fault::MbarrierMisuse, site, "this mbarrier is initialised already");
  if (mbarriers_.size() > static_cast<size_t>(kMaxMbarriers)) fault(Fault::BadLaunch, site, "more than 64 mbarriers");
  if (count == 0) fault(Fault::MbarrierMisuse, site, "an mbarrier needs at least one arrival");
  Mbarrier& made = place->second;
  made.count = count;
  made.pending = count;
  made.site = site;
  made.agent = shape_.threads + static_cast<int>(mbarriers_.size()) - 1;
  made.meeting.reset(components());
}

Mbarrier& Engine::mbarrier_at(void* bar, Site site) {
  const uint32_t offset = shared_offset(bar, 8, site);
  const auto found = mbarriers_.find(offset);
  if (found == mbarriers_.end()) fault(Fault::MbarrierMisuse, site, "no mbarrier was initialised here");
  if (tracking()) {
    const Conflict conflict = shadow_.read(actor(*current_), offset, 8);
    if (conflict.kind != Fault::None) raise(conflict, site, "the initialisation of the mbarrier");
  }
  return found->second;
}

void Engine::mbarrier_arrive(void* bar, uint32_t expect_bytes, Site site) {
  Mbarrier& at = mbarrier_at(bar, site);
  if (at.pending == 0) {
    fault(Fault::MbarrierMisuse, site, "more arrivals in a phase than the " + std::to_string(at.count) + " announced");
  }
  Thread& thread = *current_;
  if (tracking()) at.meeting.arrive(thread.known, thread.id, thread.tick);
  ++thread.tick;
  ++progress_;
  --at.pending;
  at.tx += expect_bytes;
  maybe_complete(at);
}

void Engine::maybe_complete(Mbarrier& bar) {
  if (bar.pending != 0 || bar.tx != 0) return;
  ++bar.phase;
  bar.pending = bar.count;
  if (tracking()) {
    bar.meeting.arrive(Clock(), bar.agent, bar.phase);
    bar.released = bar.meeting.result();
    bar.memo_known = Clock();
    bar.memo_result = Clock();
  }
  for (size_t w = 0; w < warps_.size(); ++w) {
    const uint32_t lanes = bar.waiting[w];
    bar.waiting[w] = 0;
    wake(static_cast<int>(w), lanes);
  }
}

void Engine::mbarrier_wait(void* bar, uint32_t parity, Site site) {
  Mbarrier& at = mbarrier_at(bar, site);
  while ((at.phase & 1) == parity) {
    at.waiting[warp()] |= 1u << lane();
    wait_here(State::AtMbarrier, site);
  }
  Thread& thread = *current_;
  if (!tracking()) return;
  if (at.memo_result.empty() || !at.memo_known.same(thread.known)) {
    at.memo_known = thread.known;
    learn(thread, at.released);
    at.memo_result = thread.known;
  } else {
    thread.known = at.memo_result;
  }
}

void Engine::bulk_copy(void* to, const void* from, uint32_t bytes, void* bar, Site site) {
  // PTX ISA, "cp.async.bulk": both addresses and the size are multiples of 16.
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0) {
    fault(Fault::Misaligned, site, "bulk copies need addresses and sizes that are multiples of 16");
  }
  if (bytes == 0) return;
  Mbarrier& at = mbarrier_at(bar, site);
  CopyTask task;
  task.to = shared_offset(to, bytes, site);
  task.from = from;
  task.bytes = bytes;
  task.mbarrier = shared_offset(bar, 8, site);
  global_read(from, bytes, site);
  if (tracking()) {
    Actor writer = actor(*current_);
    writer.component = at.agent;
    writer.tick = kPendingTick;
    writer.async_proxy = true;
    const Conflict conflict = shadow_.write(writer, task.to, bytes, false);
    if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(task.to));
  }
  if (lazy()) {
    bulk_.push_back(task);
  } else {
    land(task);
  }
}

void Engine::land(const CopyTask& task) {
  move_bytes(arena_, task);
  Mbarrier& bar = mbarriers_.at(task.mbarrier);
  if (tracking()) shadow_.settle(task.to, task.bytes, bar.agent, bar.phase + 1);
  bar.tx -= task.bytes;
  ++progress_;
  maybe_complete(bar);
}

}  // namespace smoe::cu::emu
