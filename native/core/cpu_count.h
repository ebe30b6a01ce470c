// How many cores this process may use.
#pragma once

#include "core/thread_pool.h"

namespace smoe {

// A thread count as SMOE_THREADS gives it: a decimal in 1..kMaxPoolThreads, or 0 when it is anything else.
int parse_thread_count(const char* text);
// Cores that a cgroup v2 cpu.max line ("quota period" or "max period") allows, rounded up; 0 = no limit or unreadable.
int parse_cpu_max(const char* line);
// SMOE_THREADS when valid (an invalid one is ignored: a library cannot refuse to load over it), else the cores in
// the affinity mask, or fewer when a container's CPU quota is smaller. In 1..kMaxPoolThreads.
int usable_threads();

}  // namespace smoe
