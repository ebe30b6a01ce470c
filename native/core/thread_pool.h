// The project's own threads. libuv's four are never used: they are shared with fs, dns and crypto.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace smoe {

// Upper bound of any pool's size; sizes per-worker scratch.
constexpr int kMaxPoolThreads = 256;

class ThreadPool {
 public:
  using Task = void (*)(void* context, int64_t index, int worker);

  // `threads` counts the calling thread, so a pool of 1 starts none. Workers start on first use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Threads a parallel_for may use now, the caller included: for choosing how finely to divide.
  int size() const;
  // Lowers or raises how many threads take part from the next call on (clamped to 1..max_size()).
  void set_limit(int threads);
  // Worker numbers lie in [0, max_size()). Size per-worker scratch by this and not by size(), which another
  // thread's set_limit may raise between the allocation and the run.
  int max_size() const;

  // Calls task(context, i, worker) once for each i in [0, count) and returns when all are done. The
  // caller takes part. Which thread gets which index is not fixed, so results must not depend on it.
  // Safe from several threads at once and from inside a task: whoever finds the workers busy runs its
  // own indices alone, as worker 0. What tasks wrote is visible to the caller afterwards. Tasks must not throw.
  void run(int64_t count, Task task, void* context);

  template <class F>
  void parallel_for(int64_t count, const F& body) {
    run(
        count, [](void* context, int64_t index, int worker) { (*static_cast<const F*>(context))(index, worker); },
        const_cast<F*>(&body));
  }

  // The process-wide pool: SMOE_THREADS, else the cores this process may use. Leaked on purpose: no
  // join at exit.
  static ThreadPool& process();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace smoe
