// P3, P4 on mma.sync against double.
#include "grouped_case.h"

using namespace smoe;
using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

GroupedCase shape(int k, int features, std::vector<int32_t> counts, bool glu = false, bool extras = false) {
  return {&launch_grouped_gemm, k, features, std::move(counts), glu, false, extras};
}

}  // namespace

TEST_CASE("grouped_gemm: plain, gated, gather, empty experts, unaligned rows") {
  check_grouped(shape(40, 24, {0, 7, 0}));
  check_grouped(shape(40, 24, {9, 0, 65}, true, true));
  check_grouped(shape(44, 40, {1, 8, 0, 3}, false, true));
  check_grouped(shape(43, 24, {2, 5}, true));
  check_grouped(shape(136, 72, {0, 33}, true));
  check_grouped(shape(48, 136, {130}));
}

TEST_CASE("grouped_gemm: rings that go round, tiles that end early") {
  check_grouped(shape(328, 264, {40, 0, 143}, true));
  check_grouped(shape(584, 40, {17, 1, 66}, false, true));
  GroupedCase c = shape(328, 264, {113, 30, 16, 5});
  c.out_parts = 1;
  check_grouped(c);
}

TEST_CASE("grouped_gemm: three parts are f32") {
  GroupedCase c = shape(72, 24, {3, 0, 10}, true, true);
  c.exact = true;
  check_grouped(c);
  c.out_parts = 3;
  check_grouped(c);
  c = shape(40, 40, {7, 2});
  c.exact = true;
  check_grouped(c);
}

TEST_CASE("grouped_gemm: planes of bf16, whole chunks and less") {
  for (const int features : {40, 37}) {
    for (const int parts : {1, 3}) {
      GroupedCase c = shape(24, features, {3, 0, 18}, false, true);
      c.out_parts = parts;
      check_grouped(c);
    }
  }
  GroupedCase c = shape(24, 24, {3, 33}, true, true);
  c.out_parts = 1;
  check_grouped(c);
}

TEST_CASE("grouped_gemm: codes, every format in one layer") {
  for (const int k : {320, 384, 40}) {
    for (const bool exact : {false, true}) {
      GroupedCase c = shape(k, k == 384 ? 136 : 24, {0, 1, 3, 9, 2, 8, 4, 1, 17, 33, 2, 5, 3}, k != 384, exact);
      c.codes = some_codes(k);
      c.exact = exact;
      check_grouped(c);
    }
  }
  GroupedCase c = shape(192, 24, {70, 129, 3}, false, true);
  c.codes = {{WeightFormat::W4, 64, true}, {WeightFormat::T2}, {}};
  check_grouped(c);
  // Deep rings that go round, both halves of a tile, the next tile begun while one is stored.
  c = shape(1088, 40, {5, 33, 40, 1, 64}, false, false);
  c.codes = {{WeightFormat::W4, 64, true}, {WeightFormat::T2}, {WeightFormat::W8, 32}, {}, {WeightFormat::W4C, 32}};
  c.out_parts = 1;
  check_grouped(c);
  c = shape(192, 24, {65, 130}, true, true);
  c.exact = true;
  c.codes = {{WeightFormat::W8, 32, true}, {WeightFormat::W4C, 16, false, 1}};
  check_grouped(c);
}

TEST_CASE("grouped_gemm: residual planes, some or all of them, beside other formats") {
  for (const int k : {320, 384, 44}) {
    for (const bool exact : {false, true}) {
      GroupedCase c = shape(k, k == 384 ? 136 : 24, {3, 1, 33, 9, 2, 8, 70, 17, 5}, k != 384, exact);
      c.codes = nested_codes(k);
      c.exact = exact;
      check_grouped(c);
    }
  }
  GroupedCase c = shape(1088, 40, {5, 33, 40, 1, 64, 2}, false, false);
  c.codes = nested_codes(1088);
  c.codes.resize(6);
  c.out_parts = 1;
  check_grouped(c);
}

TEST_CASE("grouped_gemm: no rows") { check_grouped(shape(40, 24, {0, 0})); }

TEST_CASE("grouped_gemm: no bank conflicts") {
  for (const bool glu : {false, true}) {
    GroupedCase c = shape(128, 128, {128, 0, 48}, glu);
    c.out_parts = 1;
    c.traffic = true;
    check_grouped(c);
  }
}
