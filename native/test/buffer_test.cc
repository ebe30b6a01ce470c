#include "core/buffer.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>

#include "core/workspace.h"

using namespace smoe;

TEST_CASE("buffers are aligned, writable to the last byte, and moved without a copy") {
  const size_t mib = size_t{1} << 20;
  for (const size_t bytes :
       {size_t{1}, size_t{63}, size_t{4096}, size_t{32} << 10, 8 * mib - 1, 8 * mib, 9 * mib + 7}) {
    Buffer buffer;
    REQUIRE(buffer.allocate(bytes).ok());
    CHECK(buffer.bytes() == bytes);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % 64 == 0);
#if defined(__linux__)
    if (bytes >= 8 * mib) CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % (2 * mib) == 0);
#endif
    std::memset(buffer.data(), 0x5a, bytes);
    const void* before = buffer.data();
    Buffer moved = std::move(buffer);
    CHECK(moved.data() == before);
    CHECK(moved.bytes() == bytes);
    CHECK(buffer.data() == nullptr);
    CHECK(buffer.bytes() == 0);
    REQUIRE(moved.allocate(10).ok());
    CHECK(moved.bytes() == 10);
  }
}

TEST_CASE("nothing and too much") {
  Buffer buffer;
  REQUIRE(buffer.allocate(0).ok());
  CHECK(buffer.data() == nullptr);
  REQUIRE(buffer.allocate(100).ok());
  CHECK(buffer.allocate(SIZE_MAX).code() == Code::OutOfMemory);
  CHECK(buffer.data() == nullptr);
  CHECK(buffer.bytes() == 0);
  // Half of the 47-bit address space: more than any kernel promises, less than what fails before it is asked.
  CHECK(buffer.allocate(size_t{1} << 46).code() == Code::OutOfMemory);
}

TEST_CASE("products are refused before they wrap") {
  size_t out = 0;
  CHECK(checked_product(0, SIZE_MAX, &out));
  CHECK(out == 0);
  CHECK(checked_product(1u << 20, 1u << 20, &out));
  CHECK(out == size_t{1} << 40);
  CHECK_FALSE(checked_product(SIZE_MAX, 2, &out));
  CHECK_FALSE(checked_product(size_t{1} << 32, size_t{1} << 31, &out));
  CHECK(checked_product(static_cast<size_t>(PTRDIFF_MAX), 1, &out));
}

TEST_CASE("workspaces grow, hand out aligned runs and rewind") {
  Workspace workspace;
  REQUIRE(workspace.reserve(Workspace::bytes_for<float>(3) + Workspace::bytes_for<double>(100)).ok());
  float* a = workspace.take<float>(3);
  const size_t mark = workspace.used();
  CHECK(mark == 64);
  double* b = workspace.take<double>(100);
  CHECK(reinterpret_cast<char*>(b) - reinterpret_cast<char*>(a) == 64);
  CHECK(reinterpret_cast<uintptr_t>(b) % 64 == 0);
  CHECK(workspace.used() == workspace.capacity());
  workspace.rewind(mark);
  CHECK(workspace.take<double>(1) == b);
  REQUIRE(workspace.reserve(10).ok());
  CHECK(workspace.capacity() == 64 + 832);
  CHECK(workspace.used() == 0);
  REQUIRE(workspace.nested().reserve(128).ok());
  CHECK(workspace.bytes() == 64 + 832 + 128);
  workspace.release();
  CHECK(workspace.bytes() == 0);
}
