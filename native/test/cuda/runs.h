// How often a kernel test runs and in which schedule; values for it. On a GPU the schedules mean nothing, and the runs
// are repetitions, which must give the same bits.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cuda/cu.h"

#ifdef __CUDACC__
namespace smoe::cu::emu {
enum class Schedule { LazyRoundRobin, EagerGreedy };
enum class BlockOrder { Ascending, Descending, Random };
class Traffic;
}  // namespace smoe::cu::emu
#endif

namespace smoe::cu::test {

struct Run {
  emu::Schedule schedule;
  emu::BlockOrder order;
};

inline std::vector<Run> all_runs() {
#if defined(__SANITIZE_ADDRESS__)
  // What AddressSanitizer sees depends on the order of threads least of all, and it takes several times as long.
  return {{emu::Schedule::LazyRoundRobin, emu::BlockOrder::Ascending},
          {emu::Schedule::EagerGreedy, emu::BlockOrder::Random}};
#endif
  std::vector<Run> runs;
  for (auto schedule : {emu::Schedule::LazyRoundRobin, emu::Schedule::EagerGreedy}) {
    for (auto order : {emu::BlockOrder::Ascending, emu::BlockOrder::Descending, emu::BlockOrder::Random}) {
      runs.push_back({schedule, order});
    }
  }
  return runs;
}

// One of all_runs(), for tests that take the same few.
inline Run nth_run(size_t n) {
  const std::vector<Run> runs = all_runs();
  return runs[n % runs.size()];
}

// NaN counts as a difference, whatever the tolerance.
inline bool close(double value, double expected, double tolerance) { return std::fabs(value - expected) <= tolerance; }

// SMOE_TEST_SEED gives every test fresh inputs; unset, or 0, they are the same on every machine.
inline unsigned fresh_seed(unsigned seed) {
  static const unsigned salt = [] {
    const char* const text = std::getenv("SMOE_TEST_SEED");
    return text == nullptr ? 0u : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
  }();
  return seed + salt * 0x9E3779B9u;
}

inline std::vector<float> random_floats(size_t count, unsigned seed, float scale = 1) {
  std::mt19937 engine(fresh_seed(seed));
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

// NaN equals itself here, and 0 does not equal -0.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace smoe::cu::test
