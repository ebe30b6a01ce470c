// Shared by the emulator's tests: the runs every kernel goes through, and how a planted bug is looked for.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "cuda/cu.h"
#include "kernels/bugs.h"

namespace smoe::cu::test {

struct Run {
  emu::Schedule schedule;
  emu::BlockOrder order;
};

inline std::vector<Run> all_runs() {
  std::vector<Run> runs;
  for (auto schedule : {emu::Schedule::LazyRoundRobin, emu::Schedule::EagerGreedy}) {
    for (auto order : {emu::BlockOrder::Ascending, emu::BlockOrder::Descending, emu::BlockOrder::Random}) {
      runs.push_back({schedule, order});
    }
  }
  return runs;
}

inline emu::Options options_of(const Run& run, uint64_t seed = 1) {
  emu::Options options;
  options.schedule = run.schedule;
  options.order = run.order;
  options.seed = seed;
  return options;
}

// NaN counts as a difference, whatever the tolerance.
inline bool close(double value, double expected, double tolerance) { return std::fabs(value - expected) <= tolerance; }

inline std::vector<float> random_floats(size_t count, unsigned seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

inline std::vector<bf16> random_bf16(size_t count, unsigned seed, float scale = 1) {
  std::vector<bf16> values;
  for (const float value : random_floats(count, seed, scale)) values.push_back(to_bf16(value));
  return values;
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
