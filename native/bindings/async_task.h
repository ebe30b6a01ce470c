// One asynchronous call in three phases:
//   1. JS thread: the callback checks and copies its arguments into a task (a caller may transfer or overwrite a buffer
//      while the call is in flight, and Node-API cannot pin one), then start() queues it.
//   2. op thread: run() computes on native memory only; no Node-API call is legal there.
//   3. JS thread: finished() and result() settle the promise.
#pragma once

#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "bindings/convert.h"
#include "core/cancel.h"
#include "core/status.h"

namespace smoe {

class LiveTasks;

class AsyncTask {
 public:
  virtual ~AsyncTask() = default;
  // `cancel` may be null. A token that is cancelled already rejects without queueing.
  static Napi::Promise start(Napi::Env env, std::shared_ptr<AsyncTask> task, std::shared_ptr<CancelFlag> cancel);

 protected:
  AsyncTask() = default;
  virtual Status run() = 0;
  // JS thread, once per task that was started, before the promise settles and also when it was refused by start().
  // For busy flags and statistics; must not throw.
  virtual void finished(Napi::Env, const Status&) noexcept {}
  // JS thread, after an Ok run. Default: the kept value.
  virtual Napi::Value result(Napi::Env env);

  // Keeps one JS object alive until the promise is settled: the array that the call fills.
  void keep(Napi::Value value);
  // As above, for an array that the op thread fills.
  void keep(const NewArray& array);
  Napi::Value kept() const { return kept_.Value(); }
  const CancelFlag* cancel() const { return cancel_.get(); }

 private:
  friend class LiveTasks;
  enum State { kWaiting, kRunning, kAbandoned };

  void execute() noexcept;              // op thread
  void settle(Napi::Env env) noexcept;  // JS thread
  void drop_js() noexcept { kept_.Reset(); }

  std::atomic<int> state_{kWaiting};
  std::shared_ptr<CancelFlag> cancel_;
  std::shared_ptr<LiveTasks> owner_;
  std::shared_ptr<AsyncTask> queue_hold_;  // the op queue's share; moves to LiveTasks::done_ when the run ends
  std::shared_ptr<AsyncTask> next_done_;
  size_t live_index_ = 0;
  Status status_;
  napi_deferred deferred_ = nullptr;
  Napi::ObjectReference kept_;
  std::shared_ptr<void> kept_memory_;
};

// The tasks of one environment (main thread or worker), and its way back from the op thread.
class LiveTasks : public std::enable_shared_from_this<LiveTasks> {
 public:
  explicit LiveTasks(Napi::Env env);

  void add(Napi::Env env, const std::shared_ptr<AsyncTask>& task);
  void remove(Napi::Env env, AsyncTask& task) noexcept;
  // Op thread: the task has run.
  void done(std::shared_ptr<AsyncTask> task) noexcept;
  // JS thread, while the environment goes down: cancels everything and returns once no task of this environment runs.
  // Queued tasks are abandoned, not waited for: another thread's long call may be ahead of them.
  void shut_down() noexcept;

 private:
  static void on_wake(Napi::Env env, Napi::Function, LiveTasks* self, void*);
  using Wake = Napi::TypedThreadSafeFunction<LiveTasks, void, &LiveTasks::on_wake>;

  void settle_done(Napi::Env env) noexcept;

  // One ThreadSafeFunction for all calls of the environment: making one costs more than a small call takes.
  // It keeps the event loop alive only while tasks are live.
  Wake wake_;
  std::vector<std::shared_ptr<AsyncTask>> live_;  // JS thread only

  std::mutex mutex_;
  std::condition_variable ran_;
  std::shared_ptr<AsyncTask> done_;  // newest first
  size_t done_count_ = 0;
  bool closed_ = false;
};

}  // namespace smoe
