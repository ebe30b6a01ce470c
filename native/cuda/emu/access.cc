// Checked accesses to shared and global memory, and the fences, tickets and waits that order them.
#include <algorithm>
#include <cstring>

#include "cuda/emu/engine.h"

namespace smoe::cu::emu {

void Engine::raise(const Conflict& conflict, Site site, std::string what) {
  std::string text = conflict.text;
  if (conflict.other >= 0 && conflict.other < shape_.threads) {
    text += " thread " + std::to_string(conflict.other) + " (warp " + std::to_string(conflict.other / 32) + ", lane " +
            std::to_string(conflict.other % 32) + ")";
  } else if (conflict.other >= shape_.threads) {
    text += conflict.other < shape_.threads + kMaxMbarriers ? " a bulk copy" : " a wgmma";
  }
  fault(conflict.kind, site, std::move(text) + "; " + std::move(what));
}

// --- shared memory

// Regions lie apart, so that running past the end of one is not an access to the next.
constexpr uint32_t kRegionGap = 256;

void* Engine::static_shared(const void* tag, size_t bytes) {
  const auto known = statics_.find(tag);
  if (known != statics_.end()) return arena_ + known->second;
  const uint32_t begin = (arena_used_ + kRegionGap + 127) / 128 * 128;
  if (begin + bytes > kSharedLimit) fault(Fault::BadLaunch, {}, "static shared memory does not fit");
  std::memset(arena_ + begin, 0xFF, bytes);
  regions_.push_back({begin, begin + static_cast<uint32_t>(bytes)});
  arena_used_ = begin + static_cast<uint32_t>(bytes);
  statics_.emplace(tag, begin);
  return arena_ + begin;
}

uint32_t Engine::shared_offset(const void* address, size_t bytes, Site site) {
  const int64_t offset = static_cast<const unsigned char*>(address) - arena_;
  for (const Region& region : regions_) {
    if (offset < region.begin || offset + static_cast<int64_t>(bytes) > region.end) continue;
    if (static_cast<uint64_t>(offset) % std::min<size_t>(bytes, 16) != 0) {
      fault(Fault::Misaligned, site,
            std::to_string(bytes) + " bytes at shared offset " + std::to_string(offset) + " are not aligned");
    }
    return static_cast<uint32_t>(offset);
  }
  fault(Fault::OutOfBounds, site,
        std::to_string(bytes) + " bytes at shared offset " + std::to_string(offset) + ": outside every shared array");
}

void Engine::shared_read(const void* address, size_t bytes, Site site) {
  const uint32_t offset = shared_offset(address, bytes, site);
  if (options_.traffic) {
    traffic_.note(AccessKind::SharedRead, warp(), lane(), site, offset, static_cast<uint32_t>(bytes));
  }
  if (!tracking()) return;
  const Conflict conflict = shadow_.read(actor(*current_), offset, static_cast<uint32_t>(bytes));
  if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(offset));
}

void Engine::shared_write(const void* address, size_t bytes, bool atomic, Site site) {
  const uint32_t offset = shared_offset(address, bytes, site);
  ++progress_;
  if (options_.traffic) {
    traffic_.note(AccessKind::SharedWrite, warp(), lane(), site, offset, static_cast<uint32_t>(bytes));
  }
  if (!tracking()) return;
  const Conflict conflict = shadow_.write(actor(*current_), offset, static_cast<uint32_t>(bytes), atomic);
  if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(offset));
}

// A row of an ldmatrix counts as read by the lane that gave its address.
void Engine::note_ldmatrix(int warp, int lane, uint32_t offset, Site site) {
  if (options_.traffic) traffic_.note(AccessKind::Ldmatrix, warp, lane, site, offset, 16);
  if (!tracking()) return;
  const Conflict conflict = shadow_.read(actor(threads_[static_cast<size_t>(warp * 32 + lane)]), offset, 16);
  if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(offset));
}

// A row of an stmatrix counts as written by the lane that gave its address.
void Engine::note_stmatrix(int warp, int lane, uint32_t offset, Site site) {
  if (options_.traffic) traffic_.note(AccessKind::Stmatrix, warp, lane, site, offset, 16);
  ++progress_;
  if (!tracking()) return;
  const Conflict conflict = shadow_.write(actor(threads_[static_cast<size_t>(warp * 32 + lane)]), offset, 16, false);
  if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(offset));
}

// A wgmma operand: in flight until the warp waits for it.
void Engine::shared_async_read(uint32_t offset, uint32_t bytes, int warp, Site site) {
  if (!tracking()) return;
  Actor reader = actor(threads_[static_cast<size_t>(warp * 32)]);
  reader.component = wgmma_agent(warp);
  reader.tick = kPendingTick;
  reader.async_proxy = true;
  const Conflict conflict = shadow_.read(reader, offset, bytes);
  if (conflict.kind != Fault::None) raise(conflict, site, "shared offset " + std::to_string(offset));
}

// --- global memory

GlobalActor Engine::global_actor() const {
  GlobalActor result;
  result.launch = launch_;
  result.block = static_cast<uint32_t>(block_);
  result.thread = actor(*current_);
  result.tickets = &tickets_;
  result.early = shape_.pdl && !current_->pdl_waited;
  for (const Acquired& event : acquired_) result.acquired |= result.thread.knows(event.thread, event.tick);
  return result;
}

void Engine::global_read(const void* address, size_t bytes, Site site) {
  GlobalBuffer* buffer = nullptr;
  Conflict conflict = memory_->check_bounds(address, bytes, &buffer);
  if (conflict.kind == Fault::None) {
    if (options_.traffic) {
      traffic_.note(AccessKind::GlobalRead, warp(), lane(), site, reinterpret_cast<uintptr_t>(address),
                    static_cast<uint32_t>(bytes));
    }
    if (!tracking()) return;
    conflict = memory_->read(buffer, global_actor(), address, bytes);
  }
  if (conflict.kind != Fault::None) raise(conflict, site, memory_->describe(address, bytes));
}

void Engine::global_write(const void* address, size_t bytes, Site site) {
  GlobalBuffer* buffer = nullptr;
  Conflict conflict = memory_->check_bounds(address, bytes, &buffer);
  if (conflict.kind == Fault::None) {
    if (shape_.pdl && !current_->pdl_waited)
      fault(Fault::PdlContract, site, "writes '" + buffer->name + "' before pdl_wait");
    if (options_.traffic) {
      traffic_.note(AccessKind::GlobalWrite, warp(), lane(), site, reinterpret_cast<uintptr_t>(address),
                    static_cast<uint32_t>(bytes));
    }
    ++progress_;
    current_->store_tick = current_->tick;
    conflict = memory_->write(buffer, global_actor(), address, bytes);
    if (!tracking()) return;
  }
  if (conflict.kind != Fault::None) raise(conflict, site, memory_->describe(address, bytes));
}

// --- fences and tickets

void Engine::fence_proxy_async() {
  if (tracking()) shadow_.fence(current_->id, current_->tick, current_->known);
  ++current_->tick;
}

void Engine::fence_gpu() {
  current_->fence_known = current_->known;
  current_->fence_tick = current_->tick++;
}

// Publishing needs every store of the block to be ordered before the ticket (a barrier) and to be followed by a device
// fence, the storing thread's or the ticket taker's behind the barrier (PTX ISA, "Memory Consistency Model": causality
// order is transitive over barriers and fences).
uint32_t Engine::ticket(uint32_t* address, uint32_t arrivals, Site site) {
  GlobalBuffer* buffer = nullptr;
  const Conflict conflict = memory_->check_bounds(address, sizeof(uint32_t), &buffer);
  if (conflict.kind != Fault::None) raise(conflict, site, memory_->describe(address, sizeof(uint32_t)));
  if (shape_.pdl && !current_->pdl_waited) fault(Fault::PdlContract, site, "takes a ticket before pdl_wait");
  Thread& mine = *current_;
  for (int i = 0; i < shape_.threads && tracking(); ++i) {
    const Thread& other = threads_[static_cast<size_t>(i)];
    if (other.store_tick == 0) continue;
    const bool own = i == mine.id;
    if (!own && mine.known.at(i) < other.store_tick) {
      fault(Fault::TicketFence, site, "stores of thread " + std::to_string(i) + " are not ordered before the ticket");
    }
    const bool fenced_there = other.fence_tick >= other.store_tick && (own || mine.known.at(i) >= other.fence_tick);
    if (!fenced_there && (own || mine.fence_known.at(i) < other.store_tick)) {
      fault(Fault::TicketFence, site,
            "no fence_gpu between the stores of thread " + std::to_string(i) + " and the ticket");
    }
  }
  const uint32_t before = *address;
  *address = before + 1 >= arrivals ? 0 : before + 1;
  ++progress_;
  ++tickets_[static_cast<size_t>(block_)];
  if (before + 1 == arrivals) acquired_.push_back({mine.id, mine.tick++});
  return before;
}

}  // namespace smoe::cu::emu
