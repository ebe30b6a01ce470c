#include "core/thread_pool.h"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

#include "core/cpu_count.h"

using namespace smoe;

namespace {

// Each index once, worker numbers in range, results visible to the caller.
void check_run(ThreadPool& pool, int64_t count) {
  std::vector<int> hits(static_cast<size_t>(count), 0);
  std::atomic<bool> in_range{true};
  pool.parallel_for(count, [&](int64_t i, int worker) {
    hits[static_cast<size_t>(i)]++;
    if (worker < 0 || worker >= pool.max_size()) in_range = false;
  });
  CHECK(in_range);
  for (const int hit : hits) REQUIRE(hit == 1);
}

}  // namespace

TEST_CASE("every index runs once") {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.max_size() == threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) check_run(pool, count);
  }
}

TEST_CASE("many short runs in a row, with and without a sleep between") {
  ThreadPool pool(3);
  int64_t sum = 0;
  for (int round = 0; round < 3000; ++round) {
    std::atomic<int64_t> part{0};
    pool.parallel_for(4, [&](int64_t i, int) { part.fetch_add(i + 1, std::memory_order_relaxed); });
    sum += part;
    if (round % 1000 == 999) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(sum == 30000);
}

TEST_CASE("a worker takes part even when it has to be woken") {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> met{0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    pool.parallel_for(2, [&](int64_t, int) {
      met.fetch_add(1);
      while (met.load() < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    });
    CHECK(met.load() == 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST_CASE("nested runs do not deadlock") {
  ThreadPool pool(3);
  std::atomic<int> total{0};
  pool.parallel_for(8, [&](int64_t, int) {
    pool.parallel_for(8, [&](int64_t, int) { pool.parallel_for(2, [&](int64_t, int) { total.fetch_add(1); }); });
  });
  CHECK(total == 128);
}

TEST_CASE("concurrent callers each get all of their indices") {
  ThreadPool pool(2);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 300; ++round) {
        std::vector<int64_t> out(17, 0);
        pool.parallel_for(17, [&](int64_t i, int) { out[static_cast<size_t>(i)] = i + caller; });
        for (int64_t i = 0; i < 17; ++i) wrong += out[static_cast<size_t>(i)] != i + caller;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("the limit may change at any time") {
  ThreadPool pool(4);
  pool.set_limit(1);
  CHECK(pool.size() == 1);
  const std::thread::id self = std::this_thread::get_id();
  bool elsewhere = false;
  pool.parallel_for(50, [&](int64_t, int worker) { elsewhere |= worker != 0 || std::this_thread::get_id() != self; });
  CHECK_FALSE(elsewhere);
  pool.set_limit(99);
  CHECK(pool.size() == 4);
  pool.set_limit(-3);
  CHECK(pool.size() == 1);
  std::atomic<bool> stop{false};
  std::thread changer([&] {
    for (int i = 0; !stop; ++i) pool.set_limit(1 + i % 4);
  });
  for (int round = 0; round < 500; ++round) check_run(pool, 9);
  stop = true;
  changer.join();
}

TEST_CASE("thread counts are parsed strictly") {
  CHECK(parse_thread_count("1") == 1);
  CHECK(parse_thread_count("256") == 256);
  for (const char* bad : {"", "0", "257", "-1", " 2", "2 ", "two", "2.5", "99999999999999999999"})
    CHECK(parse_thread_count(bad) == 0);
  CHECK(parse_thread_count(nullptr) == 0);
  CHECK(parse_cpu_max("150000 100000") == 2);
  CHECK(parse_cpu_max("100000 100000") == 1);
  CHECK(parse_cpu_max("1000 100000") == 1);
  CHECK(parse_cpu_max("max 100000") == 0);
  CHECK(parse_cpu_max("") == 0);
  CHECK(parse_cpu_max("5 0") == 0);
  CHECK(usable_threads() >= 1);
}
