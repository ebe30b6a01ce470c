// Memory of a device: freed blocks are kept for later allocations, and small blocks are carved from slabs. A runtime
// gives large allocations whole pages of 2 MiB, of which an expert's matrix of 3 or 1.5 MiB would leave a quarter
// unused (cuda_bench measures what is taken), and a model has tens of thousands of matrices, scales and zero points.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "cuda/runtime.h"

namespace smoe {

class DevicePool {
 public:
  struct Source {
    std::function<cu::CudaError(size_t bytes, void** out)> allocate;
    std::function<void(void* memory)> release;
  };
  // carve: whether there are slabs. Without them every block is an allocation of the source.
  DevicePool(Source source, bool carve) : source_(std::move(source)), carve_(carve) {}

  // *bytes become those of the block. Before an allocation is refused everything unused goes back to the source.
  cu::CudaError allocate(size_t* bytes, void** out);
  // keep: for later allocations; else it goes back to the source, or with the rest of its slab.
  void give_back(void* memory, size_t bytes, bool keep);
  void trim();

  size_t in_use() const;
  size_t cached() const;  // of blocks that were given back

 private:
  struct Slab {
    size_t bytes = 0, used = 0;  // carved so far, from the start
    size_t live = 0;             // blocks in use
    std::vector<std::pair<size_t, void*>> blocks;
  };
  using Slabs = std::map<unsigned char*, Slab>;

  Slabs::iterator slab_of(void* memory);
  void* take_free(size_t* bytes);
  void* carve(size_t bytes);
  void add_slab(size_t bytes);
  void drop(Slabs::iterator slab);
  void trim_locked();

  Source source_;
  bool carve_;
  mutable std::mutex lock_;
  std::set<std::pair<size_t, void*>> free_;
  Slabs slabs_;                       // by address
  std::vector<unsigned char*> open_;  // slabs with room, the latest last
  size_t next_slab_ = kFirstSlab;
  size_t in_use_ = 0, cached_ = 0;
  size_t idle_ = 0;  // what could go back to the source at once: free blocks of no slab, slabs without blocks in use

  static constexpr size_t kFirstSlab = size_t{4} << 20;
};

}  // namespace smoe
