#include "core/workspace_pool.h"

#include <utility>

namespace smoe {
namespace {

// One for the driver and one for a synchronous caller beside it; more would keep the memory of a rare burst for ever.
constexpr size_t kIdle = 2;

}  // namespace

WorkspacePool::Lease WorkspacePool::lease() {
  std::unique_ptr<Workspace> workspace;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.capacity() < kIdle) idle_.reserve(kIdle);  // so that giving back cannot throw
    if (!idle_.empty()) {
      workspace = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (workspace == nullptr) workspace = std::make_unique<Workspace>();
  return Lease(this, std::move(workspace));
}

void WorkspacePool::give_back(std::unique_ptr<Workspace> workspace) {
  workspace->reset();
  std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.size() < kIdle) idle_.push_back(std::move(workspace));
}

size_t WorkspacePool::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  size_t total = 0;
  for (const auto& workspace : idle_) total += workspace->bytes();
  return total;
}

void WorkspacePool::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.clear();  // keeps the capacity that give_back() relies on
}

WorkspacePool& WorkspacePool::process() {
  static WorkspacePool* pool = new WorkspacePool;
  return *pool;
}

}  // namespace smoe
