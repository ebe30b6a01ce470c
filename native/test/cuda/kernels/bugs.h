// Test kernels take a planted bug as a template parameter; Bug::None is the correct kernel. The line where the emulator
// must find it carries a comment "fault: <name>".
#pragma once

namespace smoe::cu::test {

enum class Bug {
  None,
  MissingWait,          // no cp_wait before the barrier
  MissingBarrier,       // no barrier before reading a stage
  MissingReuseBarrier,  // no barrier before overwriting a stage (write after read)
  CopyAtExit,           // a stage that nobody waits for
  DivergentBarrier,
  DivergentShuffle,
  ExitBeforeBarrier,
  OutOfBounds,
  Misaligned,
  ReadBeforeWrite,
  SharedRace,
  SharedOutOfBounds,
  MissingProxyFence,
  WrongBytes,   // mbarrier expects more bytes than are copied
  GridBarrier,  // a block waits for the others
  MissingTicketFence,
  MissingTicketBarrier,
  MissingAcquire,   // reads what other blocks wrote without being the last
  MissingSyncWarp,  // relies on a warp being in step
  EarlyAccess,      // global memory before pdl_wait
  NoPdlWait,
  MissingWgmmaFence,
  TouchedAccumulator,
};

}  // namespace smoe::cu::test
