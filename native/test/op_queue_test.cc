#include "core/op_queue.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/thread_pool.h"
#include "core/workspace_pool.h"

using namespace smoe;

TEST_CASE("ops run one at a time in the order of their submission") {
  std::vector<int> order;
  std::atomic<int> inside{0}, overlaps{0};
  {
    OpQueue queue;
    for (int i = 0; i < 200; ++i) {
      queue.submit([&, i] {
        if (inside.fetch_add(1) != 0) ++overlaps;
        order.push_back(i);
        inside.fetch_sub(1);
      });
    }
  }  // destruction drains
  CHECK(overlaps == 0);
  REQUIRE(order.size() == 200);
  for (int i = 0; i < 200; ++i) CHECK(order[static_cast<size_t>(i)] == i);
}

TEST_CASE("pending counts queued and running ops") {
  OpQueue queue;
  CHECK(queue.pending() == 0);
  std::promise<void> started, release;
  std::future<void> released = release.get_future();
  queue.submit([&] {
    started.set_value();
    released.wait();
  });
  started.get_future().wait();
  queue.submit([] {});
  CHECK(queue.pending() == 2);
  release.set_value();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (queue.pending() > 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  CHECK(queue.pending() == 0);
}

TEST_CASE("an op may submit, use the pool, and throw without harm") {
  ThreadPool pool(2);
  std::promise<int64_t> done;
  OpQueue queue;
  queue.submit([] { throw std::runtime_error("dropped"); });
  queue.submit([&] {
    queue.submit([&] {
      std::atomic<int64_t> sum{0};
      pool.parallel_for(100, [&](int64_t i, int) { sum += i; });
      done.set_value(sum);
    });
  });
  CHECK(done.get_future().get() == 4950);
}

TEST_CASE("submitters on several threads lose nothing") {
  std::atomic<int> ran{0};
  {
    OpQueue queue;
    std::vector<std::thread> submitters;
    for (int i = 0; i < 4; ++i) {
      submitters.emplace_back([&] {
        for (int k = 0; k < 100; ++k) queue.submit([&] { ++ran; });
      });
    }
    for (std::thread& submitter : submitters) submitter.join();
  }
  CHECK(ran == 400);
}

TEST_CASE("what an op holds is freed before it stops being pending") {
  OpQueue queue;
  auto held = std::make_shared<int>(1);
  std::weak_ptr<int> watch = held;
  queue.submit([held = std::move(held)] {});
  while (queue.pending() > 0) std::this_thread::yield();
  CHECK(watch.expired());
}

TEST_CASE("workspaces are lent to one holder at a time and kept for the next") {
  WorkspacePool pool;
  Workspace* first = nullptr;
  {
    auto lease = pool.lease();
    first = &*lease;
    REQUIRE(lease->reserve(1000).ok());
    REQUIRE(lease->nested().reserve(500).ok());
    auto other = pool.lease();
    CHECK(&*other != first);
    CHECK(pool.bytes() == 0);
  }
  CHECK(pool.bytes() == 1500);
  {
    std::vector<WorkspacePool::Lease> burst;
    for (int i = 0; i < 6; ++i) {
      burst.push_back(pool.lease());
      REQUIRE(burst.back()->reserve(4000).ok());
    }
  }
  CHECK(pool.bytes() <= 2 * 4500);
  pool.trim();
  CHECK(pool.bytes() == 0);
}
