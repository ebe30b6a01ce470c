#include "core/cpu_count.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace smoe {

int parse_thread_count(const char* text) {
  if (text == nullptr || *text < '0' || *text > '9') return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *end == '\0' && value >= 1 && value <= kMaxPoolThreads ? static_cast<int>(value) : 0;
}

int parse_cpu_max(const char* line) {
  long long quota = 0, period = 0;
  if (std::sscanf(line, "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0) return 0;
  const long long cores = quota / period + (quota % period != 0);
  return static_cast<int>(std::min<long long>(cores, kMaxPoolThreads));
}

namespace {

#if defined(__linux__)
int affinity_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

// The smallest quota on the way from this process's group to the root: each ancestor limits it too.
int quota_cores() {
  std::ifstream groups("/proc/self/cgroup");
  std::string line, path;
  while (std::getline(groups, line))
    if (line.compare(0, 3, "0::") == 0) path = line.substr(3);
  if (path.empty() || path.find("..") != std::string::npos) path = "/";
  int cores = 0;
  for (;;) {
    std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
    if (std::getline(file, line)) {
      const int limit = parse_cpu_max(line.c_str());
      if (limit > 0) cores = cores == 0 ? limit : std::min(cores, limit);
    }
    const size_t slash = path.rfind('/');
    if (path.size() <= 1 || slash == std::string::npos) return cores;
    path.resize(slash);
  }
}
#else
int affinity_cores() { return 0; }
int quota_cores() { return 0; }
#endif

}  // namespace

int usable_threads() {
  const int asked = parse_thread_count(std::getenv("SMOE_THREADS"));
  if (asked > 0) return asked;
  int cores = affinity_cores();
  if (cores <= 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  const int quota = quota_cores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::clamp(cores, 1, kMaxPoolThreads);
}

}  // namespace smoe
