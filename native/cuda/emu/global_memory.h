// Device memory of the emulation: every buffer is registered, ends at an inaccessible page, starts poisoned, and
// remembers who wrote what in the present launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/emu/clock.h"
#include "cuda/emu/report.h"
#include "cuda/emu/shared_shadow.h"

namespace smoe::cu::emu {

// One access by a thread of a block. `acquired`: this thread knows that its block arrived last at a ticket, which
// orders the accesses of other blocks before it.
struct GlobalActor {
  uint32_t launch = 0;
  uint32_t block = 0;
  Actor thread;
  bool acquired = false;
  bool early = false;  // before pdl_wait: may read what launches before the last one wrote
  // Tickets taken so far by each block of the launch: a store counts as published by the next ticket of its block.
  const std::vector<uint32_t>* tickets = nullptr;
};

struct GlobalBuffer {
  unsigned char* data = nullptr;
  size_t bytes = 0;
  std::string name;
  // Written by the host only (weights, tables): kernels may read it before pdl_wait, and may not write it.
  bool constant = false;
  // Whatever the host wrote was copied in, in the order of a stream. Elsewhere the host stands for kernels of other
  // launches: such bytes are not read before pdl_wait.
  bool copied_in = false;

  void* mapping = nullptr;
  size_t mapping_bytes = 0;
  struct Granule;  // two bytes
  Granule* granules = nullptr;
  size_t granule_bytes = 0;
};

class GlobalMemory {
 public:
  GlobalMemory() = default;
  ~GlobalMemory();
  GlobalMemory(const GlobalMemory&) = delete;
  GlobalMemory& operator=(const GlobalMemory&) = delete;

  // Null when the system has no memory left.
  GlobalBuffer* allocate(size_t bytes, bool constant, const char* name);
  void release(GlobalBuffer* buffer);
  void mark_written(GlobalBuffer* buffer, size_t offset, size_t bytes);
  // Bytes that neither host nor kernels have written (in pairs of bytes).
  size_t unwritten(const GlobalBuffer* buffer) const;

  // The buffer that holds the address, or the one that ends or begins nearest before it; null when there is none.
  GlobalBuffer* find(const void* address);
  // Where an access goes wrong: the text for a report.
  std::string describe(const void* address, size_t bytes);

  Conflict check_bounds(const void* address, size_t bytes, GlobalBuffer** buffer);
  Conflict read(GlobalBuffer* buffer, const GlobalActor& actor, const void* address, size_t bytes);
  Conflict write(GlobalBuffer* buffer, const GlobalActor& actor, const void* address, size_t bytes);

 private:
  std::vector<std::unique_ptr<GlobalBuffer>> buffers_;  // by address
  GlobalBuffer* last_ = nullptr;
};

}  // namespace smoe::cu::emu
