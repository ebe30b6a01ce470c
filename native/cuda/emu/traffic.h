// How well the accesses of a warp fit the memory: shared-memory bank conflicts and 32-byte sectors of global memory,
// per line of the kernel. The n-th execution of a line by each lane of a warp is taken as one instruction.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cuda/emu/report.h"

namespace smoe::cu::emu {

enum class AccessKind { GlobalRead, GlobalWrite, SharedRead, SharedWrite, Ldmatrix, Stmatrix };

struct TrafficLine {
  AccessKind kind = AccessKind::GlobalRead;
  uint64_t instructions = 0;  // per warp
  uint64_t sectors = 0;       // global only
  uint64_t bytes = 0;         // asked for
  int worst_ways = 0;         // shared only: 1 is free of conflicts
};

class Traffic {
 public:
  void begin_block(int warps);
  void note(AccessKind kind, int warp, int lane, Site site, uint64_t address, uint32_t bytes);
  void end_block();
  void clear() { lines_.clear(); }

  const std::map<int, TrafficLine>& lines() const { return lines_; }
  // The line in one source file's text is enough for tests: kernels of one test lie in one header.
  const TrafficLine* line(int number) const;

 private:
  struct Instruction {
    uint32_t lanes = 0, bytes = 0;
    uint64_t address[32];
  };
  struct Open {
    AccessKind kind;
    uint64_t first = 0;  // executions already counted
    std::vector<Instruction> waiting;
    uint64_t done[32] = {};
  };
  void count(int line, AccessKind kind, const Instruction& instruction);

  std::vector<std::map<int, Open>> open_;  // per warp, by line
  std::map<int, TrafficLine> lines_;
};

}  // namespace smoe::cu::emu
