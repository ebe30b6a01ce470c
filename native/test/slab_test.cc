#include "core/slab.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

using namespace smoe;

#if defined(__linux__)
namespace {

struct Run {
  unsigned char* at;
  size_t bytes;
  unsigned char fill;
};

bool intact(const Run& run) {
  return std::all_of(run.at, run.at + run.bytes, [&](unsigned char byte) { return byte == run.fill; });
}

// Random lifetimes: no run overlaps another, whatever was released before.
void churn(SlabPool& pool, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Run> runs;
  int broken = 0, unaligned = 0;
  const auto drop = [&](size_t index) {
    broken += !intact(runs[index]);
    REQUIRE(pool.release(runs[index].at, runs[index].bytes));
    runs[index] = runs.back();
    runs.pop_back();
  };
  for (int step = 0; step < 400; ++step) {
    if (!runs.empty() && random() % 5 < 2) {
      drop(random() % runs.size());
      continue;
    }
    const size_t bytes = 1 + random() % (size_t{1} << (10 + random() % 12));
    auto* at = static_cast<unsigned char*>(pool.allocate(bytes));
    REQUIRE(at != nullptr);
    unaligned += reinterpret_cast<uintptr_t>(at) % SlabPool::kAlignment != 0;
    runs.push_back({at, bytes, static_cast<unsigned char>(random())});
    std::memset(at, runs.back().fill, bytes);
  }
  while (!runs.empty()) drop(runs.size() - 1);
  CHECK(broken == 0);
  CHECK(unaligned == 0);
}

}  // namespace

TEST_CASE("slabs: random lifetimes never overlap, and the last release returns every slab") {
  SlabPool pool;
  for (unsigned seed = 1; seed <= 4; ++seed) churn(pool, seed);
  CHECK(pool.slabs() == 0);
}

TEST_CASE("slabs: the pool serves concurrent threads") {
  SlabPool pool;
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed) threads.emplace_back([&, seed] { churn(pool, seed); });
  for (std::thread& thread : threads) thread.join();
  CHECK(pool.slabs() == 0);
}

TEST_CASE("slabs: freed neighbours join and are used again") {
  SlabPool pool;
  const size_t quarter = SlabPool::kSlabBytes / 4;
  void* parts[4];
  for (void*& part : parts) REQUIRE((part = pool.allocate(quarter)) != nullptr);
  CHECK(pool.slabs() == 1);
  for (const int order : {0, 2, 1}) CHECK(pool.release(parts[order], quarter));  // the middle one joins both sides
  CHECK(pool.allocate(3 * quarter) == parts[0]);
  CHECK(pool.allocate(64) != nullptr);
  CHECK(pool.slabs() == 2);
}

TEST_CASE("slabs: pages that nothing uses read as zero again, those beside a run stay") {
  SlabPool pool;
  auto* kept = static_cast<unsigned char*>(pool.allocate(kHugePage + 64));
  const size_t bytes = 2 * kHugePage;
  auto* freed = static_cast<unsigned char*>(pool.allocate(bytes));
  REQUIRE(freed == kept + kHugePage + 64);
  std::memset(kept, 1, kHugePage + 64);
  std::memset(freed, 2, bytes);
  CHECK(pool.release(freed, bytes));
  CHECK(kept[kHugePage + 63] == 1);
  REQUIRE(pool.allocate(bytes) == freed);
  CHECK(freed[kHugePage - 64] == 0);  // the first whole page behind `kept`
}

TEST_CASE("slabs: what is not of the pool is left alone") {
  SlabPool pool;
  int outside = 0;
  CHECK_FALSE(pool.release(&outside, sizeof outside));
  CHECK(pool.allocate(0) == nullptr);
  CHECK(pool.allocate(SlabPool::kSlabBytes + 1) == nullptr);
  CHECK(pool.slabs() == 0);
}
#endif
