// What an emulated launch says about itself. Faults are data: the first one stops the launch and is returned.
#pragma once

#include <cstdint>
#include <string>

namespace smoe::cu::emu {

// Where in the kernel's source a wrapper was called.
struct Site {
  const char* file = "";
  int line = 0;
  // As a default argument of a wrapper: the line that calls the wrapper.
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
inline bool operator==(const Site& a, const Site& b) { return a.line == b.line && a.file == b.file; }
inline bool operator!=(const Site& a, const Site& b) { return !(a == b); }

enum class Fault {
  None,
  BadLaunch,            // a shape that no GPU accepts
  OutOfBounds,          // outside every buffer or shared region, or across the end of one
  Misaligned,           // address not a multiple of the access size (or of 16 for async copies)
  ReadBeforeWrite,      // bytes that nobody has written
  WriteToConstant,      // a store to a buffer marked constant
  SharedRace,           // two accesses of shared memory that nothing orders
  GlobalRace,           // the same for global memory, inside a block or between blocks
  PendingCopy,          // shared memory with an async copy still in flight
  ProxyFence,           // generic writes read or overwritten by the async proxy without fence_proxy_async
  DivergentBarrier,     // a barrier that some threads of the block never reach
  DivergentCollective,  // a warp operation that some lanes of its mask never reach, or reach elsewhere
  Deadlock,             // nothing can run: flags or grid barriers between blocks
  MbarrierTx,           // expected bytes and copied bytes differ
  MbarrierMisuse,       // not initialised, or more arrivals than the count
  TicketFence,          // stores not ordered and fenced before the ticket that publishes them
  PdlContract,          // global memory touched, or a successor let go, before pdl_wait; or no pdl_wait at all
  WgmmaMisuse,          // missing fence, touched accumulators, misplaced operands
  Overflow,             // a size that does not fit 64 bits
};
const char* fault_name(Fault kind);

struct Report {
  Fault kind = Fault::None;
  std::string message;
  int64_t block = -1;
  int warp = -1;
  uint32_t lanes = 0;  // bit per lane of `warp` concerned
  Site site;

  bool ok() const { return kind == Fault::None; }
  std::string text() const;
};

}  // namespace smoe::cu::emu
