#include "kernels/tuning/ceilings.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/buffer.h"
#include "kernels/kernel_table.h"

using namespace smoe;

TEST_CASE("the probes of machine ceilings do the work that they report") {
  const KernelTable& table = *kernels();
  Buffer buffer;
  REQUIRE(buffer.allocate(4096).ok());
  for (int i = 0; i < 1024; ++i) buffer.as<float>()[i] = static_cast<float>(i % 1000);
  CHECK(table.probe_read(buffer.data(), 4096) == 999);  // the largest value: every vector was looked at
  double once = 0, twice = 0;
  CHECK(std::isfinite(table.probe_fma(10, &once)));
  CHECK(std::isfinite(table.probe_fma(20, &twice)));
  CHECK(once > 0);
  CHECK(twice == 2 * once);
  if (table.probe_bf16 != nullptr) {
    CHECK(std::isfinite(table.probe_bf16(10, &once)));
    CHECK(once > twice / 2);
  }
  // Rounds that do something: the sum of the chains' first values alone is 0 + 1 + ... over 16 lanes.
  double ops = 0, more = 0;
  CHECK(table.probe_int8(8, &ops) > table.probe_int8(0, &more));
  CHECK(more == 0);
  if (table.probe_int4 != nullptr) {
    CHECK(table.probe_int4(1, &more) == table.probe_int8(8, &ops));  // a round is eight steps of the same sums
    CHECK(more == ops / 2);                                          // which was added to twice
  }
}

TEST_CASE("measuring the machine ceilings can be cancelled") {
  ThreadPool pool(2);
  CancelFlag cancel;
  cancel.set.store(true);
  Ceilings ceilings;
  CHECK(measure_ceilings(pool, 2, &cancel, &ceilings).code() == Code::Cancelled);
  CHECK(ceilings.threads == 0);
}

TEST_CASE("kernel tables are found by name and forced by name") {
  const KernelTable* before = kernels();
  int count = 0;
  const char* const* names = usable_isas(&count);
  REQUIRE(count >= 1);
  for (int i = 0; i < count; ++i) {
    REQUIRE(find_kernels(names[i]) != nullptr);
    CHECK(force_kernels(names[i]));
    CHECK(kernels() == find_kernels(names[i]));
  }
  CHECK(find_kernels("itanium") == nullptr);
  CHECK_FALSE(force_kernels("itanium"));
  CHECK(kernels() == find_kernels(names[count - 1]));
  CHECK(force_kernels(nullptr));
  CHECK(kernels() == before);
}
