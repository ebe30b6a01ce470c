// The pool of a device's memory: blocks lie apart, slabs come and go, what cannot be had is refused with all else as it
// was. Its source is a counter; nothing is read or written.
#include "device/pool.h"

#include <doctest/doctest.h>

#include <random>

using namespace smoe;

namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Addresses that are handed out and must come back.
struct Memory {
  size_t limit = size_t{1} << 50, held = 0;
  uintptr_t next = 1 << 20;
  std::map<uintptr_t, size_t> allocations;

  DevicePool::Source source() {
    const auto allocate = [this](size_t bytes, void** out) {
      if (held + bytes > limit) return cu::CudaError::OutOfMemory;
      held += bytes;
      allocations[next] = bytes;
      *out = reinterpret_cast<void*>(next);
      next += bytes + 4096;
      return cu::CudaError::None;
    };
    const auto release = [this](void* memory) {
      const auto found = allocations.find(reinterpret_cast<uintptr_t>(memory));
      REQUIRE(found != allocations.end());
      held -= found->second;
      allocations.erase(found);
    };
    return {allocate, release};
  }
  bool inside(const void* memory, size_t bytes) const {
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory);
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second;
  }
};

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
};

Block take(DevicePool& pool, size_t bytes) {
  Block block{nullptr, bytes};
  REQUIRE(pool.allocate(&block.bytes, &block.memory) == cu::CudaError::None);
  REQUIRE(block.bytes >= bytes);
  return block;
}
void give(DevicePool& pool, const Block& block, bool keep = true) { pool.give_back(block.memory, block.bytes, keep); }

}  // namespace

TEST_CASE("pool: blocks lie apart and inside what the source gave, whatever comes and goes") {
  for (const bool carve : {true, false}) {
    Memory memory;
    DevicePool pool(memory.source(), carve);
    std::mt19937 random(carve ? 1 : 2);
    std::map<uintptr_t, Block> live;
    size_t in_use = 0;
    for (int step = 0; step < 20000; ++step) {
      // Growing, then shrinking, several times.
      const bool grow = step / 2500 % 2 == 0 ? random() % 4 != 0 : random() % 4 == 0;
      if (grow || live.empty()) {
        const size_t order = random() % 26, bytes = random() % (size_t{1} << order) + (random() % 8 == 0 ? 0 : 1);
        const Block block = take(pool, bytes);
        REQUIRE(memory.inside(block.memory, block.bytes));
        REQUIRE(reinterpret_cast<uintptr_t>(block.memory) % 512 == 0);
        const uintptr_t at = reinterpret_cast<uintptr_t>(block.memory);
        const auto after = live.lower_bound(at);
        REQUIRE((after == live.end() || at + block.bytes <= after->first));
        if (after != live.begin()) REQUIRE(std::prev(after)->first + std::prev(after)->second.bytes <= at);
        live[at] = block;
        in_use += block.bytes;
      } else {
        auto which = live.begin();
        std::advance(which, static_cast<std::ptrdiff_t>(random() % live.size()));
        give(pool, which->second, random() % 16 != 0);
        in_use -= which->second.bytes;
        live.erase(which);
      }
      REQUIRE(pool.in_use() == in_use);
      if (step % 1000 == 999) pool.trim();
      REQUIRE(memory.held >= in_use + pool.cached());
    }
    for (const auto& [at, block] : live) give(pool, block);
    pool.trim();
    CHECK(pool.in_use() == 0);
    CHECK(pool.cached() == 0);
    CHECK(memory.held == 0);
  }
}

TEST_CASE("pool: the matrices of a model leave little of their slabs unused") {
  Memory memory;
  DevicePool pool(memory.source(), true);
  size_t asked = 0;
  for (int expert = 0; expert < 1000; ++expert) {  // of Qwen3-30B-A3B, in bf16 and, with scales and zero points, in w4
    for (const size_t bytes : {size_t{6291456}, size_t{3145728}, size_t{1572864}, size_t{49152}, size_t{49152}}) {
      asked += take(pool, bytes).bytes;
    }
  }
  CHECK(memory.held < asked + asked / 40);
}

TEST_CASE("pool: small models hold little, large blocks are the source's own") {
  Memory memory;
  DevicePool pool(memory.source(), true);
  take(pool, 1000);
  CHECK(memory.held == 4 * kMiB);
  take(pool, 17 * kMiB);
  CHECK(memory.held == 21 * kMiB);
}

TEST_CASE("pool: a slab goes back with its last block, or stays as long as there is room to keep it") {
  Memory memory;
  DevicePool pool(memory.source(), true);
  const Block one = take(pool, kMiB), two = take(pool, kMiB);
  give(pool, one, false);
  CHECK(memory.held == 4 * kMiB);  // the other still lies there
  CHECK(take(pool, kMiB).memory == one.memory);
  give(pool, one);
  pool.trim();
  CHECK(memory.held == 4 * kMiB);
  give(pool, two);
  CHECK(memory.held == 4 * kMiB);
  CHECK(pool.cached() == 2 * kMiB);
  CHECK(take(pool, kMiB).memory == one.memory);
  give(pool, one, false);
  CHECK(memory.held == 0);
  CHECK(pool.cached() == 0);
}

TEST_CASE("pool: no room for a slab, and none for the block") {
  Memory memory;
  DevicePool pool(memory.source(), true);
  memory.limit = 3 * kMiB;
  const Block alone = take(pool, 2 * kMiB);  // without a slab
  CHECK(memory.held == 2 * kMiB);
  Block refused{nullptr, 2 * kMiB};
  CHECK(pool.allocate(&refused.bytes, &refused.memory) == cu::CudaError::OutOfMemory);
  CHECK(pool.in_use() == 2 * kMiB);
  give(pool, alone);
  CHECK(pool.cached() == 2 * kMiB);
  const Block other = take(pool, 3 * kMiB);  // for which the one before goes
  CHECK(memory.held == 3 * kMiB);
  give(pool, other);
  pool.trim();
  memory.limit = 6 * kMiB;
  const Block carved = take(pool, kMiB);
  give(pool, carved);
  CHECK(memory.held == 4 * kMiB);
  take(pool, 5 * kMiB);  // for which an empty slab goes
  CHECK(memory.held == 5 * kMiB);
}
