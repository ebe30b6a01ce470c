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
  for (const int tokens : {5, 12, 30, 40}) {
    for (const int parts : {1, 3}) {
      for (const int x_parts : {1, 3}) {
        LinearCase c = shape(tokens, 20, 157);
        c.weight_parts = parts;
        c.x_parts = x_parts;
        check_linear(c);
      }
    }
  }
}

TEST_CASE("linear_rows: bias, sigmoid, residual in place, planes, fewer rows than the graph has") {
  for (const int out_parts : {0, 1, 3}) {
    LinearCase c = shape(9, 37, 50);
    c.out_parts = out_parts;
    c.bias = true;
    check_linear(c);
    c.sigmoid = true;
    check_linear(c);
    c.in_place = true;
    c.max_tokens = 20;
    check_linear(c);
    if (out_parts == 0) continue;
    c.in_place = c.f32 = c.sigmoid = false;
    c.tokens = 0;
    check_linear(c);
    c.tokens = 1;
    check_linear(c);
  }
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

TEST_CASE("linear_rows: maps side by side") {
  for (const bool shared : {false, true}) {
    LinearCase c = shape(10, 21, 45);
    c.batch = 5;
    c.shared_x = shared;
    c.bias = true;
    c.weight_parts = c.x_parts = c.out_parts = 3;
    check_linear(c);
  }
}

TEST_CASE("linear_rows: a row's bits do not depend on its batch") {
  for (const CodeSpec& spec : {CodeSpec{}, CodeSpec{WeightFormat::W4, 0, true}, CodeSpec{WeightFormat::T2}}) {
    LinearCase c = shape(50, 24, 200);
    c.codes = spec;
    const LinearInputs all(c);
    const auto y = run_linear(all, nth_run(0), 1, 4).y;
    for (const size_t token : {0, 13, 49}) {
      LinearInputs one(shape(1, 24, 200));
      const auto row = all.planes.begin() + std::ptrdiff_t(token * all.x_stride);
      one.planes.assign(row, row + std::ptrdiff_t(all.x_stride));
      one.atoms = all.atoms;
      one.codes = all.codes;
      const auto alone = run_linear(one, nth_run(3), 1, 2).y;
      CHECK(std::memcmp(alone.data(), &y[token * all.out_stride], 24 * 4) == 0);
    }
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
