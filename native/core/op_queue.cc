#include "core/op_queue.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace smoe {

struct OpQueue::Impl {
  mutable std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> ops;
  bool running = false, stop = false;
  std::thread driver;

  void drive();
};

namespace {

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
