#include "cuda/emu/report.h"

#include <cstdio>

namespace smoe::cu::emu {

const char* fault_name(Fault kind) {
  switch (kind) {
    case Fault::None:
      return "none";
    case Fault::BadLaunch:
      return "bad launch";
    case Fault::OutOfBounds:
      return "out of bounds";
    case Fault::Misaligned:
      return "misaligned";
    case Fault::ReadBeforeWrite:
      return "read before write";
    case Fault::WriteToConstant:
      return "write to constant";
    case Fault::SharedRace:
      return "shared race";
    case Fault::GlobalRace:
      return "global race";
    case Fault::PendingCopy:
      return "pending copy";
    case Fault::ProxyFence:
      return "missing proxy fence";
    case Fault::DivergentBarrier:
      return "divergent barrier";
    case Fault::DivergentCollective:
      return "divergent collective";
    case Fault::Deadlock:
      return "deadlock";
    case Fault::MbarrierTx:
      return "mbarrier byte count";
    case Fault::MbarrierMisuse:
      return "mbarrier misuse";
    case Fault::TicketFence:
      return "ticket without fence";
    case Fault::PdlContract:
      return "PDL contract";
    case Fault::WgmmaMisuse:
      return "wgmma misuse";
    case Fault::Overflow:
      return "overflow";
  }
  return "unknown";
}

std::string Report::text() const {
  if (ok()) return "ok";
  char where[128];
  std::snprintf(where, sizeof where, ": block %lld, warp %d, lanes 0x%08x, ", static_cast<long long>(block), warp,
                lanes);
  return fault_name(kind) + std::string(where) + site.file + ":" + std::to_string(site.line) + ": " + message;
}

}  // namespace smoe::cu::emu
