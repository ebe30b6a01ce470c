#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

#include "kernels/kernel_table.h"

bool smoe_test_isa_usable() { return smoe::kernels() != nullptr; }

TEST_CASE("the forced instruction set is the active one") {
  const char* forced = std::getenv("SMOE_ISA");
  if (forced != nullptr) CHECK(std::strcmp(smoe::kernels()->isa, forced) == 0);
}
