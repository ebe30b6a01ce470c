// Block barriers, warp collectives, and the report when neither can go on.
#include <cstdio>

#include "cuda/emu/engine.h"

namespace smoe::cu::emu {

void Engine::barrier(int id, int count, bool wait, Site site) {
  if (id < 0 || id >= kMaxBarriers) fault(Fault::BadLaunch, site, "barrier id " + std::to_string(id) + " of 16");
  if (count <= 0 || count % 32 != 0 || count > shape_.threads) {
    fault(Fault::DivergentBarrier, site,
          "barrier count " + std::to_string(count) + " is no number of whole warps here");
  }
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0) {
    barrier.expected = count;
    barrier.site = site;
    if (tracking()) barrier.meeting.reset(components());
  } else if (barrier.expected != count) {
    fault(Fault::DivergentBarrier, site,
          "barrier " + std::to_string(id) + " entered with count " + std::to_string(count) + ", others gave " +
              std::to_string(barrier.expected));
  } else if (id == 0 && barrier.site != site) {
    // Barrier 0 belongs to the whole block and its condition must be the same for all (CUDA C++ Programming Guide,
    // "Synchronization Functions"). Named barriers may be met in different places by different roles.
    fault(Fault::DivergentBarrier, site, "others wait at the barrier of line " + std::to_string(barrier.site.line));
  }
  Thread& thread = *current_;
  if (tracking()) barrier.meeting.arrive(thread.known, thread.id, thread.tick);
  ++thread.tick;
  ++barrier.arrived;
  if (wait) barrier.waiting[warp()] |= 1u << lane();
  if (barrier.arrived < barrier.expected) {
    if (wait) wait_here(State::AtBarrier, site);
    return;
  }
  const Clock after = tracking() ? barrier.meeting.result() : Clock();
  barrier.arrived = 0;
  for (size_t w = 0; w < warps_.size(); ++w) {
    uint32_t lanes = barrier.waiting[w];
    barrier.waiting[w] = 0;
    if (tracking()) {
      for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) thread_at(w, rest).known = after;
    }
    if (wait && static_cast<int>(w) == warp()) lanes &= ~(1u << lane());
    wake(static_cast<int>(w), lanes);
  }
}

void Engine::collective(Apply apply, uint32_t mask, void* lane_argument, Site site) {
  const uint32_t me = 1u << lane();
  if ((mask & me) == 0) fault(Fault::DivergentCollective, site, "a lane calls a warp operation whose mask excludes it");
  Warp& warp_now = warps_[static_cast<size_t>(warp())];
  Collective* slot = nullptr;
  for (Collective& open : warp_now.collectives) {
    if (open.apply == nullptr) {
      if (slot == nullptr) slot = &open;
    } else if (open.apply == apply && open.mask == mask && open.site == site && (open.arrived & me) == 0) {
      slot = &open;
      break;
    } else if ((open.mask & mask) != 0) {
      fault_at(Fault::DivergentCollective, site, warp(), me,
               "other lanes of the mask wait in the warp operation of line " + std::to_string(open.site.line));
    }
  }
  if (slot == nullptr) fault(Fault::DivergentCollective, site, "more than four warp operations at a time in one warp");
  if (slot->apply == nullptr) {
    slot->apply = apply;
    slot->mask = mask;
    slot->site = site;
    slot->arrived = 0;
  }
  slot->lane[lane()] = lane_argument;
  slot->arrived |= me;
  if (slot->arrived != mask) {
    wait_here(State::AtCollective, site);
    return;
  }
  slot->apply = nullptr;
  apply(*this, warp(), mask, slot->lane);
  wake(warp(), mask & ~me);
}

std::string Engine::hex(uint32_t lanes) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", lanes);
  return text;
}

const char* Engine::whereabouts(const Thread& thread) const {
  switch (thread.state) {
    case State::Done:
      return "have returned";
    case State::AtBarrier:
      return "wait at a block barrier";
    case State::AtCollective:
      return "wait in another warp operation";
    case State::AtMbarrier:
      return "wait at an mbarrier";
    case State::Polling:
      return "poll a flag";
    default:
      return "are elsewhere";
  }
}

// A collective whose missing lanes have returned or gone elsewhere.
bool Engine::report_stuck_collective() {
  for (size_t w = 0; w < warps_.size(); ++w) {
    for (const Collective& open : warps_[w].collectives) {
      if (open.apply == nullptr) continue;
      const uint32_t missing = open.mask & ~open.arrived;
      const Thread& absent = thread_at(w, missing);
      fault_at(Fault::DivergentCollective, open.site, static_cast<int>(w), open.arrived,
               "lanes " + hex(missing) + " of the mask never come: they " + whereabouts(absent) + " (line " +
                   std::to_string(absent.site.line) + ")");
    }
  }
  return false;
}

bool Engine::report_stuck_barrier() {
  for (int id = 0; id < kMaxBarriers; ++id) {
    const Barrier& barrier = barriers_[id];
    if (barrier.arrived == 0) continue;
    // A warp of which only a part has come tells most; else the first that waits.
    int place = -1;
    for (size_t w = 0; w < warps_.size(); ++w) {
      if (barrier.waiting[w] != 0 && barrier.waiting[w] != 0xFFFFFFFFu && place < 0) place = static_cast<int>(w);
    }
    for (size_t w = 0; w < warps_.size() && place < 0; ++w) {
      if (barrier.waiting[w] != 0) place = static_cast<int>(w);
    }
    if (place < 0) continue;
    const char* others = "are elsewhere";
    for (int i = 0; i < shape_.threads; ++i) {
      const Thread& thread = threads_[static_cast<size_t>(i)];
      if ((barrier.waiting[i / 32] >> (i % 32) & 1) == 0) others = whereabouts(thread);
    }
    fault_at(Fault::DivergentBarrier, barrier.site, place, barrier.waiting[place],
             "barrier " + std::to_string(id) + ": " + std::to_string(barrier.arrived) + " of " +
                 std::to_string(barrier.expected) + " threads have come; others " + others);
  }
  return false;
}

bool Engine::report_stuck_mbarrier(bool bytes_only) {
  for (const auto& [offset, bar] : mbarriers_) {
    for (size_t w = 0; w < warps_.size(); ++w) {
      if (bar.waiting[w] == 0) continue;
      const Thread& waiter = thread_at(w, bar.waiting[w]);
      const std::string name =
          "mbarrier at shared offset " + std::to_string(offset) + ", phase " + std::to_string(bar.phase) + ": ";
      if (bar.pending <= 0 && bar.tx != 0) {
        fault_at(Fault::MbarrierTx, waiter.site, static_cast<int>(w), bar.waiting[w],
                 name + "all have arrived, but " + std::to_string(bar.tx) +
                     " bytes are expected and no copy is under way (negative: more were copied)");
      }
      if (!bytes_only) {
        fault_at(Fault::Deadlock, waiter.site, static_cast<int>(w), bar.waiting[w],
                 name + std::to_string(bar.pending) + " arrivals missing");
      }
    }
  }
  return false;
}

// Nobody can run. The order goes from causes to consequences: who waits for a flag or for bytes may hold up the others.
void Engine::stuck() {
  for (int i = 0; i < shape_.threads; ++i) {
    const Thread& thread = threads_[static_cast<size_t>(i)];
    if (thread.state != State::Polling) continue;
    fault_at(Fault::Deadlock, thread.site, i / 32, 1u << (i % 32),
             "polls a flag that no runnable thread of the block will change: a grid barrier, or a wait for another "
             "block, which need not be resident");
  }
  report_stuck_mbarrier(true);
  report_stuck_collective();
  report_stuck_barrier();
  report_stuck_mbarrier(false);
  fault_at(Fault::Deadlock, current_->site, warp(), 1u << lane(), "nothing can run");
}

}  // namespace smoe::cu::emu
