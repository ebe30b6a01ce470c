// Lends Workspaces, so that the driver and synchronous calls on JS threads never share one, and the memory of
// one call serves the next.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "core/workspace.h"

namespace smoe {

class WorkspacePool {
 public:
  class Lease {
   public:
    Lease(WorkspacePool* pool, std::unique_ptr<Workspace> workspace) : pool_(pool), workspace_(std::move(workspace)) {}
    Lease(Lease&& other) noexcept = default;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (workspace_ != nullptr) pool_->give_back(std::move(workspace_));
    }
    Workspace& operator*() { return *workspace_; }
    Workspace* operator->() { return workspace_.get(); }

   private:
    WorkspacePool* pool_;
    std::unique_ptr<Workspace> workspace_;
  };

  // The idle workspace returned last (its memory is warm), or a new one.
  Lease lease();
  // Bytes of idle workspaces. Those out on lease belong to their calls.
  size_t bytes() const;
  // Frees idle workspaces.
  void trim();

  // The process-wide pool, leaked like the threads that use it.
  static WorkspacePool& process();

 private:
  void give_back(std::unique_ptr<Workspace> workspace);

  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace smoe
