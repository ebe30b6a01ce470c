#include "cuda/emu/engine.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace smoe::cu::emu {

// __thread rather than thread_local: a plain word without an initialisation guard, read at every wrapper.
__thread Engine* running = nullptr;

namespace {

constexpr size_t kArenaAlign = 1024;  // what 128-byte swizzled operands need
constexpr size_t kArenaBytes = 256 << 10;

struct Stop {};

}  // namespace

Engine::Engine() : arena_storage_(kArenaBytes + kArenaAlign) {
  const uintptr_t base = reinterpret_cast<uintptr_t>(arena_storage_.data());
  arena_ = arena_storage_.data() + (kArenaAlign - base % kArenaAlign) % kArenaAlign;
}

Engine::~Engine() = default;

uint32_t Engine::random(uint32_t below) {
  // xorshift64 (Marsaglia 2003): a schedule must be the same for a seed on every machine.
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return static_cast<uint32_t>((random_ >> 32) % below);
}

Report Engine::refuse(const LaunchShape& shape) const {
  Report report;
  const auto bad = [&](const std::string& message) {
    report.kind = Fault::BadLaunch;
    report.message = message;
  };
  if (shape.blocks < 1 || shape.blocks > INT32_MAX) bad("blocks: " + std::to_string(shape.blocks));
  if (shape.threads < 1 || shape.threads > kMaxThreads) bad("threads: " + std::to_string(shape.threads));
  if (shape.threads % 32 != 0) bad("threads: not a multiple of 32: " + std::to_string(shape.threads));
  if (shape.dynamic_shared > kSharedLimit) bad("shared memory: " + std::to_string(shape.dynamic_shared));
  return report;
}

Report Engine::run(const LaunchShape& shape, void (*body)(const void*, const void*), const void* kernel,
                   const void* args, GlobalMemory& memory, const Options& options) {
  const Report refused = refuse(shape);
  if (!refused.ok()) return refused;
  if (!stacks_.reserve(shape.threads)) {
    Report report;
    report.kind = Fault::BadLaunch;
    report.message = "no memory for the stacks of the emulation";
    return report;
  }
  // A larger pool is a new mapping: fibers made on the old one are gone.
  if (static_cast<int>(threads_.size()) < stacks_.count()) threads_.clear();
  options_ = options;
  shape_ = shape;
  memory_ = &memory;
  body_ = body;
  kernel_ = kernel;
  args_ = args;
  report_ = Report();
  random_ = (options.seed ^ 0x9E3779B97F4A7C15ull) | 1;
  ++launch_;
  tickets_.assign(static_cast<size_t>(shape.blocks), 0);
  while (static_cast<int>(threads_.size()) < stacks_.count()) {
    Thread& thread = threads_.emplace_back();
    thread.id = static_cast<int>(threads_.size()) - 1;
    thread.fiber.prepare(stacks_.stack(thread.id), stacks_.stack_bytes(), &Engine::thread_main, &thread);
  }

  std::vector<int64_t> order(static_cast<size_t>(shape.blocks));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (options.order == BlockOrder::Descending) std::reverse(order.begin(), order.end());
  if (options.order == BlockOrder::Random) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random(static_cast<uint32_t>(i))]);
  }
  Engine* const outer = running;
  running = this;
  for (const int64_t block : order) {
    begin_block(block);
    run_block();
    if (report_.ok()) end_block();
    if (!report_.ok()) break;
  }
  running = outer;
  if (!report_.ok()) {
    // Fibers stopped half-way start over; what their frames held is plain data (kernels own nothing).
    for (Thread& thread : threads_) {
      thread.fiber.prepare(stacks_.stack(thread.id), stacks_.stack_bytes(), &Engine::thread_main, &thread);
    }
  }
  return report_;
}

void Engine::begin_block(int64_t block) {
  block_ = block;
  const int warps = shape_.threads / 32;
  warps_.assign(static_cast<size_t>(warps), Warp());
  for (Warp& warp : warps_) warp.ready = 0xFFFFFFFFu;
  ready_warps_ = static_cast<uint32_t>((uint64_t{1} << warps) - 1);
  live_ = shape_.threads;
  cursor_warp_ = lazy() ? 0 : static_cast<int>(random(static_cast<uint32_t>(warps)));
  cursor_lane_ = -1;
  high_lanes_first_ = !lazy() && random(2) == 1;
  for (int i = 0; i < shape_.threads; ++i) {
    Thread& thread = threads_[static_cast<size_t>(i)];
    thread.state = State::Ready;
    thread.known = thread.fence_known = Clock();
    thread.tick = 1;
    thread.fence_tick = thread.store_tick = 0;
    thread.pdl_waited = false;
    thread.open_copies.clear();
    thread.copy_groups.clear();
  }
  for (Barrier& barrier : barriers_) {
    barrier.arrived = 0;
    std::fill(std::begin(barrier.waiting), std::end(barrier.waiting), 0u);
  }
  mbarriers_.clear();
  bulk_.clear();
  arrivals_.clear();
  statics_.clear();
  acquired_.clear();
  // Every byte 0xFF: NaN as bf16 and f32, -1 as an integer.
  std::memset(arena_, 0xFF, shape_.dynamic_shared);
  regions_.assign(1, Region{0, static_cast<uint32_t>(shape_.dynamic_shared)});
  arena_used_ = static_cast<uint32_t>(shape_.dynamic_shared);
  if (options_.track) shadow_.reset(kArenaBytes, shape_.threads);
  if (options_.traffic) traffic_.begin_block(warps);
}

void Engine::run_block() {
  Thread* const first = pick_ready();
  first->state = State::Running;
  current_ = first;
  ++switches_;
  Fiber::switch_to(main_, first->fiber);
}

// A cp.async of the thread that no wait and no mbarrier has covered, or null.
static const CopyTask* open_copy(const Thread& thread) {
  for (const std::vector<CopyTask>& group : thread.copy_groups) {
    if (!group.empty()) return &group.front();
  }
  return thread.open_copies.empty() ? nullptr : &thread.open_copies.front();
}

void Engine::end_block() {
  if (options_.traffic) traffic_.end_block();
  if (shape_.pdl) {
    bool waited = false;
    for (int i = 0; i < shape_.threads; ++i) waited |= threads_[static_cast<size_t>(i)].pdl_waited;
    if (!waited) {
      report_.kind = Fault::PdlContract;
      report_.block = block_;
      report_.message = "launched with PDL, but the block ended without pdl_wait: its successors may start too early";
      return;
    }
  }
  for (int i = 0; tracking() && i < shape_.threads; ++i) {
    const CopyTask* const copy = open_copy(threads_[static_cast<size_t>(i)]);
    if (copy == nullptr) continue;
    report_.kind = Fault::PendingCopy;
    report_.block = block_;
    report_.warp = i / 32;
    report_.lanes = 1u << i % 32;
    report_.site = copy->site;
    report_.message = "the block ended with this copy into its shared memory in flight";
    return;
  }
  for (const auto& [offset, bar] : mbarriers_) {
    if (bar.tx == 0) continue;
    report_.kind = Fault::MbarrierTx;
    report_.block = block_;
    report_.site = bar.site;
    report_.message = "mbarrier at shared offset " + std::to_string(offset) + " ends with " + std::to_string(bar.tx) +
                      " expected bytes not copied";
    return;
  }
}

void Engine::thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  Fiber::arrived(thread.fiber);
  for (;;) {
    Engine& self = *running;
    try {
      self.body_(self.kernel_, self.args_);
      self.finish();
    } catch (const Stop&) {
      Fiber::switch_to(thread.fiber, self.main_);
    }
  }
}

void Engine::fault(Fault kind, Site site, std::string message) {
  fault_at(kind, site, warp(), 1u << lane(), std::move(message));
}

// Unwinds the fiber that found the fault; the others are abandoned where they stand.
void Engine::fault_at(Fault kind, Site site, int warp, uint32_t lanes, std::string message) {
  report_.kind = kind;
  report_.message = std::move(message);
  report_.block = block_;
  report_.warp = warp;
  report_.lanes = lanes;
  report_.site = site;
  throw Stop();
}

void Engine::wake(int warp, uint32_t lanes) {
  if (lanes == 0) return;
  warps_[static_cast<size_t>(warp)].ready |= lanes;
  ready_warps_ |= 1u << warp;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    threads_[static_cast<size_t>(warp * 32 + __builtin_ctz(rest))].state = State::Ready;
  }
  ++progress_;
}

Thread* Engine::pick_ready() {
  if (ready_warps_ == 0) return nullptr;
  int warp = cursor_warp_;
  uint32_t lanes = warps_[static_cast<size_t>(warp)].ready;
  if (lazy()) lanes &= static_cast<uint32_t>(~((uint64_t{1} << (cursor_lane_ + 1)) - 1));  // after the cursor
  if (lanes == 0) {
    if (lazy()) {
      const uint32_t later = ready_warps_ & static_cast<uint32_t>(~((uint64_t{2} << warp) - 1));
      warp = __builtin_ctz(later != 0 ? later : ready_warps_);
    } else {
      uint32_t skip = random(static_cast<uint32_t>(__builtin_popcount(ready_warps_)));
      uint32_t candidates = ready_warps_;
      while (skip-- > 0) candidates &= candidates - 1;
      warp = __builtin_ctz(candidates);
    }
    lanes = warps_[static_cast<size_t>(warp)].ready;
  }
  const int lane = high_lanes_first_ ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes);
  cursor_warp_ = warp;
  cursor_lane_ = lane;
  Warp& chosen = warps_[static_cast<size_t>(warp)];
  chosen.ready &= ~(1u << lane);
  if (chosen.ready == 0) ready_warps_ &= ~(1u << warp);
  return &threads_[static_cast<size_t>(warp * 32 + lane)];
}

// When nobody is ready, copies that were held back land, oldest first; then pollers look again if anything has changed
// since they last looked.
Thread* Engine::pick() {
  for (;;) {
    if (Thread* const thread = pick_ready()) return thread;
    if (!bulk_.empty()) {
      const CopyTask task = bulk_.front();
      bulk_.pop_front();
      land(task);
      continue;
    }
    if (!arrivals_.empty()) {
      CopyArrival arrival = std::move(arrivals_.front());
      arrivals_.pop_front();
      arrive_behind(arrival);
      continue;
    }
    if (polled_progress_ == progress_) return nullptr;
    bool any = false;
    for (int i = 0; i < shape_.threads; ++i) {
      if (threads_[static_cast<size_t>(i)].state != State::Polling) continue;
      wake(i / 32, 1u << (i % 32));
      any = true;
    }
    polled_progress_ = progress_;
    if (!any) return nullptr;
  }
}

void Engine::resume(Thread* next) {
  Thread* const from = current_;
  next->state = State::Running;
  if (next == from) return;
  current_ = next;
  ++switches_;
  Fiber::switch_to(from->fiber, next->fiber);
}

void Engine::wait_here(State state, Site site) {
  current_->state = state;
  current_->site = site;
  Thread* const next = pick();
  if (next == nullptr) stuck();
  resume(next);
}

void Engine::finish() {
  current_->state = State::Done;
  if (--live_ == 0) {
    Fiber::switch_to(current_->fiber, main_);
    return;
  }
  Thread* const next = pick();
  if (next == nullptr) stuck();
  resume(next);
}

void Engine::poll(Site site) { wait_here(State::Polling, site); }

Actor Engine::actor(const Thread& thread) const {
  Actor actor;
  actor.component = actor.self = thread.id;
  actor.tick = actor.self_tick = thread.tick;
  actor.known = &thread.known;
  return actor;
}

void Engine::learn(Thread& thread, const Clock& other) {
  if (thread.known.same(other)) return;
  std::vector<uint32_t> joined(components(), 0);
  thread.known.join_into(&joined);
  other.join_into(&joined);
  thread.known = Clock::from(joined);
}

void Engine::learn_component(int warp, int component, uint32_t tick) {
  std::vector<uint32_t> only(components(), 0);
  only[static_cast<size_t>(component)] = tick;
  const Clock news = Clock::from(only);
  Clock before, after;
  for (int lane = 0; lane < 32; ++lane) {
    Thread& thread = threads_[static_cast<size_t>(warp * 32 + lane)];
    if (lane == 0 || !thread.known.same(before)) {
      before = thread.known;
      learn(thread, news);
      after = thread.known;
    } else {
      thread.known = after;
    }
  }
}

}  // namespace smoe::cu::emu
