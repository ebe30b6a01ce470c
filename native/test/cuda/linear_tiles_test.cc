// Linear maps of any number of rows against double.
#include "linear_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

LinearCase shape(int tokens, int rows, int k) { return linear_case(&launch_linear_tiles, tokens, rows, k); }

}  // namespace

TEST_CASE("linear_tiles: tokens, and sizes that are multiples of nothing") {
  for (const int tokens : {0, 1, 31, 32, 33, 127, 128, 129, 300}) check_linear(shape(tokens, 33, 72));
  for (const int k : {1, 2, 7, 15, 16, 17, 33, 129, 143}) check_linear(shape(3, 5, k));
  check_linear(shape(70, 260, 24));
  check_linear(shape(2, 1, 1000));
}

TEST_CASE("linear_tiles: rows that may be copied 16 bytes at a time") {
  for (const int tokens : {1, 40, 130}) {
    for (const int k : {8, 40, 144}) {
      LinearCase c = shape(tokens, 37, k);
      c.aligned = true;
      check_linear(c);
      c.batch = 3;
      c.x_parts = 3;
      check_linear(c);
    }
  }
}

TEST_CASE("linear_tiles: rings that go round, several tiles either way") {
  for (const int tokens : {300, 60}) {
    LinearCase c = shape(tokens, 530, 328);
    c.aligned = true;
    c.bias = true;
    check_linear(c);
  }
}

TEST_CASE("linear_tiles: parts") {
  for (const int tokens : {5, 140}) check_parts(shape(tokens, 20, 157));
}

TEST_CASE("linear_tiles: bias, sigmoid, residual in place, planes, fewer rows than the graph has") {
  check_epilogues(shape(67, 37, 50), 150);
}

TEST_CASE("linear_tiles: codes") {
  int turn = 0;
  for (const int k : {320, 40}) {
    for (const CodeSpec& spec : some_codes(k)) {
      const int tokens[] = {1, 33, 70};
      LinearCase c = shape(tokens[turn++ % 3], 20, k);
      c.codes = spec;
      c.aligned = turn % 2 == 0;
      if (turn % 4 == 0) c.rows = 140;
      if (turn % 4 == 1) c.batch = 3;
      if (turn % 4 > 1) c.x_parts = 3;
      check_linear(c);
    }
  }
}

TEST_CASE("linear_tiles: codes and one plane, large tiles and small") {
  int turn = 0;
  for (const CodeSpec& spec : some_codes(320)) {
    LinearCase c = shape(turn % 2 == 0 ? 150 : 70, turn % 3 == 0 ? 300 : 140, 320);
    c.codes = spec;
    c.aligned = true;
    c.batch = ++turn % 4 == 0 ? 2 : 1;
    check_linear(c);
  }
}

TEST_CASE("linear_tiles: maps side by side") { check_side_by_side(shape(35, 21, 45)); }

TEST_CASE("linear_tiles: a row's bits do not depend on its batch") {
  check_rows_alone(shape(150, 24, 200), 1, {0, 77, 149});
}

TEST_CASE("linear_tiles: what it cannot read is refused") {
  Gpu gpu;
  LinearArgs args;
  args.rows = args.k = args.max_tokens = 1;
  args.weight.format = AtomFormat(99);
  CHECK(launch_linear_tiles(gpu.stream(), args) != 0);
  args.weight.format = AtomFormat::Bf16;
  args.x.parts = 2;
  CHECK(launch_linear_tiles(gpu.stream(), args) != 0);
}
