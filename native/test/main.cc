#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

// Defined in isa_guard_test.cc, so that this file needs nothing of smoe and compiles without sanitizers.
bool smoe_test_isa_usable();

int main(int argc, char** argv) {
  if (!smoe_test_isa_usable()) {
    std::puts("SMOE_ISA names an instruction set that this CPU lacks: skipped");
    return 77;
  }
  doctest::Context context(argc, argv);
  return context.run();
}
