#include "bindings/async_task.h"

#include <utility>

#include "bindings/env_data.h"
#include "bindings/errors.h"
#include "core/op_queue.h"

namespace smoe {

Napi::Promise AsyncTask::start(Napi::Env env, std::shared_ptr<AsyncTask> task, std::shared_ptr<CancelFlag> cancel) {
  napi_value promise;
  throw_if_failed(env, napi_create_promise(env, &task->deferred_, &promise));
  task->cancel_ = cancel != nullptr ? std::move(cancel) : std::make_shared<CancelFlag>();
  if (cancelled(task->cancel())) {
    task->status_ = Status(Code::Cancelled, "cancelled before it started");
    task->settle(env);
    return Napi::Promise(env, promise);
  }
  task->owner_ = env_data(env).tasks;
  task->owner_->add(env, task);
  task->queue_hold_ = task;
  try {
    // A raw pointer fits into std::function without an allocation; queue_hold_ owns.
    OpQueue::process().submit([raw = task.get()] { raw->execute(); });
  } catch (...) {
    task->queue_hold_.reset();
    task->status_ = status_of_current_exception();
    task->owner_->remove(env, *task);
    task->settle(env);
  }
  return Napi::Promise(env, promise);
}

Napi::Value AsyncTask::result(Napi::Env env) { return kept_.IsEmpty() ? env.Undefined() : kept_.Value(); }

void AsyncTask::keep(Napi::Value value) { kept_ = Napi::Persistent(value.As<Napi::Object>()); }

void AsyncTask::keep(const NewArray& array) {
  keep(array.value);
  kept_memory_ = array.memory;
}

void AsyncTask::execute() noexcept {
  std::shared_ptr<AsyncTask> self = std::move(queue_hold_);
  int expected = kWaiting;
  if (!state_.compare_exchange_strong(expected, kRunning)) return;  // its environment is gone
  if (cancelled(cancel())) {
    status_ = Status(Code::Cancelled, "cancelled before it started");
  } else {
    try {
      status_ = run();
    } catch (...) {
      status_ = status_of_current_exception();
    }
  }
  const std::shared_ptr<LiveTasks> owner = owner_;  // outlives the call below, whatever the JS thread does meanwhile
  owner->done(std::move(self));
}

void AsyncTask::settle(Napi::Env env) noexcept {
  try {
    Napi::HandleScope scope(env);
    finished(env, status_);
    napi_value value = nullptr;
    if (status_.ok()) {
      try {
        value = guarded(env, [&] { return result(env); });
        drop_js();
        throw_if_failed(env, napi_resolve_deferred(env, deferred_, value));
        return;
      } catch (const Napi::Error& error) {
        value = error.Value();
      }
    } else {
      value = js_error(env, status_).Value();
    }
    drop_js();
    napi_reject_deferred(env, deferred_, value);
  } catch (...) {
    // Only a terminating environment gets here: there is nobody left to tell.
    drop_js();
  }
}

LiveTasks::LiveTasks(Napi::Env env) : wake_(Wake::New(env, "smoe", 0, 1, this)) { wake_.Unref(env); }

void LiveTasks::add(Napi::Env env, const std::shared_ptr<AsyncTask>& task) {
  task->live_index_ = live_.size();
  live_.push_back(task);
  if (live_.size() == 1) wake_.Ref(env);
}

void LiveTasks::remove(Napi::Env env, AsyncTask& task) noexcept {
  const size_t index = task.live_index_;
  live_.back()->live_index_ = index;
  std::swap(live_[index], live_.back());
  live_.pop_back();
  if (live_.empty()) wake_.Unref(env);
}

void LiveTasks::done(std::shared_ptr<AsyncTask> task) noexcept {
  // The wake-up stays inside the lock: shut_down() cannot return, and the environment cannot close wake_, before it.
  std::lock_guard<std::mutex> lock(mutex_);
  const bool first = done_ == nullptr;
  task->next_done_ = std::move(done_);
  done_ = std::move(task);
  done_count_++;
  if (first && !closed_) wake_.NonBlockingCall();
  ran_.notify_all();
}

void LiveTasks::on_wake(Napi::Env env, Napi::Function, LiveTasks* self, void*) {
  if (env != nullptr) self->settle_done(env);  // null: the environment drains its queue while going down
}

void LiveTasks::settle_done(Napi::Env env) noexcept {
  const std::shared_ptr<LiveTasks> hold = shared_from_this();
  std::shared_ptr<AsyncTask> newest;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    newest = std::move(done_);
    done_count_ = 0;
  }
  std::shared_ptr<AsyncTask> oldest;
  while (newest != nullptr) {
    std::shared_ptr<AsyncTask> next = std::move(newest->next_done_);
    newest->next_done_ = std::move(oldest);
    oldest = std::move(newest);
    newest = std::move(next);
  }
  while (oldest != nullptr) {
    std::shared_ptr<AsyncTask> next = std::move(oldest->next_done_);
    remove(env, *oldest);
    oldest->settle(env);
    oldest = std::move(next);
  }
}

void LiveTasks::shut_down() noexcept {
  size_t running = 0;
  for (const auto& task : live_) {
    task->cancel_->set.store(true);
    int expected = AsyncTask::kWaiting;
    if (!task->state_.compare_exchange_strong(expected, AsyncTask::kAbandoned)) running++;
  }
  {
    std::unique_lock<std::mutex> lock(mutex_);
    ran_.wait(lock, [&] { return done_count_ == running; });
    closed_ = true;
  }
  // JS handles must go on this thread; what is native may be freed by the op thread later.
  for (const auto& task : live_) task->drop_js();
  live_.clear();
  while (done_ != nullptr) done_ = std::exchange(done_->next_done_, nullptr);
}

}  // namespace smoe
