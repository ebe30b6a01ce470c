// Linear maps of few rows against double.
#include "linear_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

LinearCase shape(int tokens, int rows, int k) { return linear_case(&launch_linear_rows, tokens, rows, k); }

}  // namespace

TEST_CASE("linear_rows: tokens, and sizes that are multiples of nothing") {
  for (const int tokens : {0, 1, 7, 8, 9, 16, 17, 32, 33, 64}) check_linear(shape(tokens, 33, 72));
  for (const int k : {1, 2, 7, 15, 16, 17, 129, 143, 300}) check_linear(shape(3, 5, k));
  check_linear(shape(2, 1, 1000));
}

TEST_CASE("linear_rows: parts") {
  for (const int tokens : {5, 12, 30, 40}) check_parts(shape(tokens, 20, 157));
}

TEST_CASE("linear_rows: bias, sigmoid, residual in place, planes, fewer rows than the graph has") {
  check_epilogues(shape(9, 37, 50), 20);
}

TEST_CASE("linear_rows: codes") {
  int turn = 0;
  for (const int k : {320, 384, 40, 34}) {
    for (const CodeSpec& spec : some_codes(k)) {
      const int tokens[] = {1, 9, 20, 40};
      LinearCase c = shape(tokens[turn++ % 4], 37, k);
      c.codes = spec;
      check_linear(c);
      c.x_parts = 3;
      c.batch = 3;
      check_linear(c);
    }
  }
}

TEST_CASE("linear_rows: maps side by side") { check_side_by_side(shape(10, 21, 45)); }

TEST_CASE("linear_rows: a row's bits do not depend on its batch") {
  for (const CodeSpec& spec : {CodeSpec{}, CodeSpec{WeightFormat::W4, 0, true}, CodeSpec{WeightFormat::T2}}) {
    LinearCase c = shape(50, 24, 200);
    c.codes = spec;
    check_rows_alone(c, 4, {0, 13, 49});
  }
}

TEST_CASE("linear_rows: what it cannot read is refused") {
  Gpu gpu;
  LinearArgs args;
  args.rows = args.k = args.max_tokens = 1;
  args.x_stride = 2;
  args.weight.format = AtomFormat::W4;
  CHECK(launch_linear_rows(gpu.stream(), args) != 0);
  args.weight.format = AtomFormat::Bf16;
  args.max_tokens = 65;
  CHECK(launch_linear_rows(gpu.stream(), args) != 0);
  args.max_tokens = 1;
  args.x_stride = 1;
  CHECK(launch_linear_rows(gpu.stream(), args) != 0);
}
