// Asynchronous calls, one after the other: each op has the whole thread pool to itself, which serves the sum of the
// callers better than sharing cores, and bounds memory to one workspace.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace smoe {

class OpQueue {
 public:
  OpQueue();
  // Runs what is queued, then joins.
  ~OpQueue();
  OpQueue(const OpQueue&) = delete;
  OpQueue& operator=(const OpQueue&) = delete;

  // Runs op on the driver thread after everything submitted before. The driver starts with the first op. An
  // op reports its own failure and must not throw; one that does is dropped. Where no thread can be started, op runs
  // before submit() returns.
  void submit(std::function<void()> op);
  // Ops queued or running.
  size_t pending() const;

  // The process-wide queue. Leaked on purpose: no join at exit.
  static OpQueue& process();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace smoe
