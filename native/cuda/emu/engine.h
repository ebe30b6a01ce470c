// Runs the blocks of a launch one after another on this CPU thread, a fiber per CUDA thread. Which fiber continues when
// one must wait is the schedule; whoever waits for something that cannot come is reported with where and why.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "cuda/emu/clock.h"
#include "cuda/emu/fiber.h"
#include "cuda/emu/global_memory.h"
#include "cuda/emu/report.h"
#include "cuda/emu/shared_shadow.h"
#include "cuda/emu/traffic.h"

namespace smoe::cu::emu {

// Lazy: async copies land as late as they may, threads take turns. Eager: copies land when issued and a warp runs as
// far as it can before another, randomly chosen, gets its turn. Each hides bugs that the other shows
// (specs/cuda-kernels.md 4.3), so tests run both.
enum class Schedule { LazyRoundRobin, EagerGreedy };
enum class BlockOrder { Ascending, Descending, Random };

constexpr size_t kSharedLimit = 232448;  // most of a block on sm_90 (227 KB)

struct Options {
  Schedule schedule = Schedule::LazyRoundRobin;
  BlockOrder order = BlockOrder::Ascending;
  uint64_t seed = 1;
  bool track = true;                   // races, initialisation, fences; off: only what poison and bounds show
  bool wgmma = true;                   // what runs_wgmma() says
  int sms = 132;                       // what sm_count() says
  size_t shared_limit = kSharedLimit;  // what shared_limit() says
  bool traffic = false;                // bank conflicts and sectors per access, at some cost
};

struct LaunchShape {
  int64_t blocks = 0;
  int threads = 0;
  size_t dynamic_shared = 0;
  bool pdl = false;
};

constexpr int kMaxThreads = 1024;
constexpr int kMaxMbarriers = 64;
constexpr int kMaxBarriers = 16;

enum class State : uint8_t { Idle, Ready, Running, AtBarrier, AtCollective, AtMbarrier, Polling, Done };

struct CopyTask {
  uint32_t to = 0;  // offset in shared memory
  const void* from = nullptr;
  uint32_t bytes = 0;
  uint32_t mbarrier = 0;  // offset; bulk copies only
  bool zero = false;      // fills with zeros instead
  Site site;
};

// An arrival that waits for copies of a thread, and what the thread was at when it asked for it.
struct CopyArrival {
  int thread = 0;
  uint32_t tick = 0, mbarrier = 0;
  Clock known;
  std::vector<CopyTask> copies;
};

// A wgmma under way, one warp's part: 16 rows of the 64.
struct WgmmaTask {
  float* acc[32];
  const uint32_t* a[32];
  uint32_t a_copy[32][4];
  uint64_t descriptor;
  int n;
  uint32_t group;
  Site site;
  std::shared_ptr<std::vector<float>> saved;  // accumulators before the first of a chain, lazy mode
};

struct Thread {
  Fiber fiber;
  int id = 0;
  State state = State::Idle;
  Site site;  // where it waits
  // Knowledge (clock.h).
  Clock known;
  uint32_t tick = 1;
  Clock fence_known;  // what was known at the last fence_gpu
  uint32_t fence_tick = 0;
  uint32_t store_tick = 0;  // of the last global store; 0: none
  bool pdl_waited = false;
  std::vector<CopyTask> open_copies;
  std::deque<std::vector<CopyTask>> copy_groups;
};

using Apply = void (*)(class Engine& engine, int warp, uint32_t mask, void* const* lanes);

struct Collective {
  Apply apply = nullptr;  // null: free
  uint32_t mask = 0, arrived = 0;
  Site site;
  void* lane[32];
};

struct Warp {
  uint32_t ready = 0;
  Collective collectives[4];  // more than one only when disjoint parts of the warp go different ways
  bool wgmma_fenced = false;
  uint32_t wgmma_group = 0, wgmma_waits = 0;
  std::vector<WgmmaTask> wgmma;
};

struct Barrier {
  int expected = 0, arrived = 0;
  Site site;
  uint32_t waiting[kMaxThreads / 32] = {};
  Meeting meeting;
};

struct Mbarrier {
  uint32_t count = 0, phase = 0;
  int64_t pending = 0, tx = 0;
  int agent = 0;  // component of the copies that report to it
  Site site;
  uint32_t waiting[kMaxThreads / 32] = {};
  Meeting meeting;
  Clock released;
  Clock memo_known, memo_result;  // lanes of a warp mostly come with the same knowledge
};

class Engine {
 public:
  Engine();
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Report run(const LaunchShape& shape, void (*body)(const void* kernel, const void* args), const void* kernel,
             const void* args, GlobalMemory& memory, const Options& options);
  Traffic& traffic() { return traffic_; }
  uint64_t switches() const { return switches_; }

  // --- what wrappers call from inside a kernel
  Thread& self() { return *current_; }
  int warp() const { return current_->id / 32; }
  int lane() const { return current_->id % 32; }
  int64_t block() const { return block_; }
  const LaunchShape& shape() const { return shape_; }
  [[noreturn]] void fault(Fault kind, Site site, std::string message);
  [[noreturn]] void fault_at(Fault kind, Site site, int warp, uint32_t lanes, std::string message);

  void barrier(int id, int count, bool wait, Site site);
  void collective(Apply apply, uint32_t mask, void* lane_argument, Site site);
  void poll(Site site);  // between two reads of a flag
  void note_progress() { ++progress_; }

  unsigned char* dynamic_shared() { return arena_; }
  void* static_shared(const void* tag, size_t bytes);
  uint32_t shared_offset(const void* address, size_t bytes, Site site);
  void shared_read(const void* address, size_t bytes, Site site);
  void shared_write(const void* address, size_t bytes, bool atomic, Site site);
  void global_read(const void* address, size_t bytes, Site site);
  void global_write(const void* address, size_t bytes, Site site);
  void shared_async_read(uint32_t offset, uint32_t bytes, int warp, Site site);

  void note_ldmatrix(int warp, int lane, uint32_t offset, Site site);
  void note_stmatrix(int warp, int lane, uint32_t offset, Site site);

  void copy_async(void* to, const void* from, bool real, Site site);
  void copy_commit();
  void copy_wait(size_t pending, Site site);
  void copy_arrive(void* bar, Site site);
  void mbarrier_init(void* bar, uint32_t count, Site site);
  void mbarrier_arrive(void* bar, uint32_t expect_bytes, Site site);
  void mbarrier_wait(void* bar, uint32_t parity, Site site);
  void bulk_copy(void* to, const void* from, uint32_t bytes, void* bar, Site site);
  void fence_proxy_async();
  void fence_gpu();
  uint32_t ticket(uint32_t* address, uint32_t arrivals, Site site);
  void pdl_wait() { current_->pdl_waited = true; }
  void pdl_trigger(Site site) {
    if (shape_.pdl && !current_->pdl_waited)
      fault(Fault::PdlContract, site, "lets its successor start before it has waited for its own predecessor");
  }

  bool lazy() const { return options_.schedule == Schedule::LazyRoundRobin; }
  bool tracking() const { return options_.track; }
  Warp& warp_state(int warp) { return warps_[static_cast<size_t>(warp)]; }
  Thread& thread(int id) { return threads_[static_cast<size_t>(id)]; }
  unsigned char* arena() { return arena_; }
  SharedShadow& shadow() { return shadow_; }
  Actor actor(const Thread& thread) const;
  // Components of a clock: threads, one agent per mbarrier (its bulk copies), one per warp (its wgmma reads).
  size_t components() const { return static_cast<size_t>(shape_.threads + kMaxMbarriers + kMaxThreads / 32); }
  int wgmma_agent(int warp) const { return shape_.threads + kMaxMbarriers + warp; }
  // All lanes of a warp learn of one component.
  void learn_component(int warp, int component, uint32_t tick);
  // Adds `other` to what a thread knows.
  void learn(Thread& thread, const Clock& other);
  [[noreturn]] void raise(const Conflict& conflict, Site site, std::string what);

 private:
  static void thread_main(void* thread);
  Report refuse(const LaunchShape& shape) const;
  void begin_block(int64_t block);
  void end_block();
  void run_block();
  void wait_here(State state, Site site);
  void wake(int warp, uint32_t lanes);
  Thread* pick();
  Thread* pick_ready();
  void resume(Thread* next);
  void finish();
  [[noreturn]] void stuck();
  bool report_stuck_collective();
  bool report_stuck_barrier();
  bool report_stuck_mbarrier(bool bytes_only);
  // The thread of the lowest of `lanes` in a warp.
  Thread& thread_at(size_t warp, uint32_t lanes) {
    return threads_[warp * 32 + static_cast<size_t>(__builtin_ctz(lanes))];
  }
  static std::string hex(uint32_t lanes);
  const char* whereabouts(const Thread& thread) const;
  GlobalActor global_actor() const;
  Mbarrier& mbarrier_at(void* bar, Site site);
  void maybe_complete(Mbarrier& bar);
  void land(const CopyTask& task);
  void arrive_behind(CopyArrival& arrival);
  uint32_t random(uint32_t below);

  Options options_;
  LaunchShape shape_;
  GlobalMemory* memory_ = nullptr;
  void (*body_)(const void*, const void*) = nullptr;
  const void* kernel_ = nullptr;
  const void* args_ = nullptr;
  Report report_;
  uint32_t launch_ = 0;
  int64_t block_ = 0;
  uint64_t random_ = 1, progress_ = 0, polled_progress_ = 0, switches_ = 0;

  StackPool stacks_;
  Fiber main_;
  std::deque<Thread> threads_;  // fibers must not move
  std::vector<Warp> warps_;
  uint32_t ready_warps_ = 0;
  int live_ = 0, cursor_warp_ = 0, cursor_lane_ = -1;
  bool high_lanes_first_ = false;
  Thread* current_ = nullptr;

  Barrier barriers_[kMaxBarriers];
  std::unordered_map<uint32_t, Mbarrier> mbarriers_;
  std::deque<CopyTask> bulk_;
  std::deque<CopyArrival> arrivals_;
  struct Region {
    uint32_t begin, end;
  };
  std::vector<unsigned char> arena_storage_;
  unsigned char* arena_ = nullptr;
  std::vector<Region> regions_;
  std::unordered_map<const void*, uint32_t> statics_;
  uint32_t arena_used_ = 0;
  SharedShadow shadow_;
  struct Acquired {
    int thread;
    uint32_t tick;
  };
  std::vector<Acquired> acquired_;
  std::vector<uint32_t> tickets_;  // per block of the launch
  Traffic traffic_;
};

// The engine whose kernel runs on this CPU thread.
extern __thread Engine* running;
inline Engine& engine() { return *running; }

}  // namespace smoe::cu::emu
