// Shared by the emulator's own tests: how a run is set up, and how a planted bug is looked for.
#pragma once

#include <fstream>

#include "cuda/emu/buffer.h"
#include "kernels/bugs.h"
#include "runs.h"

namespace smoe::cu::test {

inline emu::Options options_of(const Run& run, uint64_t seed = 1) {
  emu::Options options;
  options.schedule = run.schedule;
  options.order = run.order;
  options.seed = seed;
  options.sms = seed % 3 == 0 ? 132 : static_cast<int>(seed % 3);  // launches choose by it, and bits must not show it
  return options;
}

// The source line that a report names, for its comment "fault: <names of bugs>". Compilers write paths as they were
// called; the part from "native/" on is the same everywhere.
inline std::string source_line(const emu::Site& site) {
  const std::string path = site.file;
  const size_t tree = path.rfind("native/");
  if (tree == std::string::npos) return "";
  std::ifstream file(SMOE_SOURCE_DIR "/" + path.substr(tree));
  std::string line;
  for (int i = 0; i < site.line; ++i) std::getline(file, line);
  return line;
}

inline bool names_bug(const emu::Report& report, const std::string& bug) {
  const std::string line = source_line(report.site);
  const size_t mark = line.find("// fault:");
  return mark != std::string::npos && line.find(" " + bug, mark) != std::string::npos;
}

}  // namespace smoe::cu::test
