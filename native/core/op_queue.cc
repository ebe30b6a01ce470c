#include "core/op_queue.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/spin.h"

namespace smoe {

struct OpQueue::Impl {
  mutable std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> ops;
  std::atomic<int64_t> submitted{0};  // what the driver may look at without the mutex
  bool running = false, stop = false;
  std::thread driver;

  void drive();
};

namespace {

// Callers that go on as soon as a call settles submit the next one within tens of microseconds; waking a sleeping
// thread takes as long again.
constexpr auto kSpin = std::chrono::microseconds(100);

void run_contained(const std::function<void()>& op) {
  try {
    op();
  } catch (...) {  // an escaped exception would end the process
  }
}

}  // namespace

void OpQueue::Impl::drive() {
  std::unique_lock<std::mutex> lock(mutex);
  for (;;) {
    if (ops.empty() && !stop) {
      const int64_t seen = submitted.load(std::memory_order_relaxed);
      lock.unlock();
      spin_until(kSpin, [&] { return submitted.load(std::memory_order_relaxed) != seen; });
      lock.lock();
    }
    wake.wait(lock, [&] { return stop || !ops.empty(); });
    if (ops.empty()) return;
    {
      std::function<void()> op = std::move(ops.front());
      ops.pop_front();
      running = true;
      lock.unlock();
      run_contained(op);
    }  // what op holds is freed before the op counts as done, and outside the lock
    lock.lock();
    running = false;
  }
}

OpQueue::OpQueue() : impl_(std::make_unique<Impl>()) {}

OpQueue::~OpQueue() {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_one();
  if (impl_->driver.joinable()) impl_->driver.join();
}

void OpQueue::submit(std::function<void()> op) {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    if (!impl_->driver.joinable()) {
      try {
        impl_->driver = std::thread([this] { impl_->drive(); });
      } catch (const std::exception&) {
      }
    }
    if (impl_->driver.joinable()) {
      impl_->ops.push_back(std::move(op));
      impl_->submitted.fetch_add(1, std::memory_order_relaxed);
      op = nullptr;
    }
  }
  if (op)
    run_contained(op);
  else
    impl_->wake.notify_one();
}

size_t OpQueue::pending() const {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->ops.size() + (impl_->running ? 1 : 0);
}

OpQueue& OpQueue::process() {
  static OpQueue* queue = new OpQueue;
  return *queue;
}

}  // namespace smoe
