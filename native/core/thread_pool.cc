#include "core/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/cpu_count.h"
#include "core/spin.h"

namespace smoe {
namespace {

using Clock = std::chrono::steady_clock;

// The stages of one layer, and the calls of a caller that awaits each before the next, follow each other within tens of
// microseconds up to two hundred, and waking a sleeping thread costs about as much: spinning that long makes forks
// cheap, and an idle process still goes quiet at once.
constexpr auto kSpin = std::chrono::microseconds(200);
// On an oversubscribed machine the thread waited for may not be running: give it the core, then stop asking.
constexpr auto kYield = std::chrono::milliseconds(1);
constexpr auto kNap = std::chrono::microseconds(50);
// The gate of a job, one word so that joining is a single compare-and-swap:
//   bits 63..32 generation, bit 31 open, bits 30..0 workers inside.
// A worker reads the job only between joining and leaving; the caller writes it only while the gate is shut and empty.
// So a worker that wakes late finds the gate shut and nobody ever waits for it.
constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kInside = kOpen - 1;
constexpr uint64_t kGeneration = uint64_t{1} << 32;

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(int threads) : max_threads(std::clamp(threads, 1, kMaxPoolThreads)), limit(max_threads) {}

  const int max_threads;
  std::atomic<int> limit;
  std::atomic<bool> owned{false};  // a run holds the workers

  alignas(64) std::atomic<uint64_t> gate{0};
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) Task task = nullptr;
  void* context = nullptr;
  int64_t count = 0;

  alignas(64) std::atomic<int> sleeping{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;  // touched only by the owner of `owned`

  void start_workers(int wanted);
  void open_gate(int threads);
  void shut_gate();
  void work(int worker);
  bool join(uint64_t* seen);
  void worker_main(int worker);
  bool wait_for_generation(uint64_t seen, bool spin);
};

void ThreadPool::Impl::start_workers(int wanted) {
  while (static_cast<int>(workers.size()) < wanted) {
    const int worker = static_cast<int>(workers.size()) + 1;
    try {
      workers.emplace_back([this, worker] { worker_main(worker); });
    } catch (const std::exception&) {  // no more threads or memory: those that run do the work
      return;
    }
  }
}

void ThreadPool::Impl::work(int worker) {
  for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
       i = next.fetch_add(1, std::memory_order_relaxed))
    task(context, i, worker);
}

// Sequentially consistent, as is the sleeper's side: either we see the sleeper or it sees the new generation.
void ThreadPool::Impl::open_gate(int threads) {
  const uint64_t before = gate.load(std::memory_order_relaxed);
  gate.store((before & ~(kGeneration - 1)) + kGeneration + kOpen);
  const int asleep = sleeping.load();
  if (asleep == 0) return;
  {
    std::lock_guard<std::mutex> lock(mutex);
  }
  // With a lowered limit notify_one could wake a thread that may not take part.
  const int64_t wanted = std::min<int64_t>(count, threads) - 1;
  if (wanted >= asleep || threads < max_threads)
    wake.notify_all();
  else
    for (int64_t i = 0; i < wanted; ++i) wake.notify_one();
}

void ThreadPool::Impl::shut_gate() {
  if (((gate.fetch_and(~kOpen, std::memory_order_acq_rel)) & kInside) == 0) return;
  Clock::time_point start{};
  for (int turn = 1; (gate.load(std::memory_order_acquire) & kInside) != 0; ++turn) {
    cpu_pause();
    if (turn % kPausesPerLook != 0) continue;
    const auto now = Clock::now();
    if (start == Clock::time_point{}) start = now;
    if (now - start > kYield)
      std::this_thread::sleep_for(kNap);
    else if (now - start > kSpin)
      std::this_thread::yield();
  }
}

bool ThreadPool::Impl::join(uint64_t* seen) {
  uint64_t state = gate.load(std::memory_order_acquire);
  while ((state & kOpen) != 0) {
    if (gate.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      *seen = state / kGeneration;
      return true;
    }
  }
  *seen = state / kGeneration;
  return false;
}

// True once the generation differs from `seen`; false to stop.
bool ThreadPool::Impl::wait_for_generation(uint64_t seen, bool spin) {
  const auto changed = [&] { return gate.load() / kGeneration != seen || stop.load(std::memory_order_relaxed); };
  if (spin && spin_until(kSpin, changed)) return !stop.load();
  std::unique_lock<std::mutex> lock(mutex);
  sleeping.fetch_add(1);
  wake.wait(lock, changed);
  sleeping.fetch_sub(1);
  return !stop.load();
}

void ThreadPool::Impl::worker_main(int worker) {
  uint64_t seen = 0;
  bool spin = true;
  // A thread started for a job must not miss it: generation 0 is the one before the first.
  while (wait_for_generation(seen, spin)) {
    spin = worker < limit.load(std::memory_order_relaxed);
    if (!spin) {
      seen = gate.load(std::memory_order_relaxed) / kGeneration;
      continue;
    }
    if (!join(&seen)) continue;
    work(worker);
    gate.fetch_sub(1, std::memory_order_release);
  }
}

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>(threads)) {}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop.store(true);
  }
  impl_->wake.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::size() const { return impl_->limit.load(std::memory_order_relaxed); }
int ThreadPool::max_size() const { return impl_->max_threads; }
void ThreadPool::set_limit(int threads) {
  impl_->limit.store(std::clamp(threads, 1, impl_->max_threads), std::memory_order_relaxed);
}

void ThreadPool::run(int64_t count, Task task, void* context) {
  Impl& pool = *impl_;
  const int threads = size();
  // A plain read first: an exchange would take the cache line from the running job.
  const bool alone = count <= 1 || threads == 1 || pool.owned.load(std::memory_order_relaxed) ||
                     pool.owned.exchange(true, std::memory_order_acquire);
  if (alone) {
    for (int64_t i = 0; i < count; ++i) task(context, i, 0);
    return;
  }
  pool.start_workers(threads - 1);
  pool.task = task;
  pool.context = context;
  pool.count = count;
  pool.next.store(0, std::memory_order_relaxed);
  pool.open_gate(threads);
  pool.work(0);
  pool.shut_gate();
  pool.owned.store(false, std::memory_order_release);
}

ThreadPool& ThreadPool::process() {
  static ThreadPool* pool = new ThreadPool(usable_threads());
  return *pool;
}

}  // namespace smoe
