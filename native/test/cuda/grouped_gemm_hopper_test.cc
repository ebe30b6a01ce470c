// P3, P4 on wgmma against double.
#include "grouped_case.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

GroupedCase shape(int k, int features, std::vector<int32_t> counts, bool glu = false, bool extras = false) {
  return {&launch_grouped_gemm_hopper, k, features, std::move(counts), glu, false, extras};
}

}  // namespace

TEST_CASE("grouped_gemm_hopper: plain, gated, gather, empty experts, sizes that are multiples of nothing") {
  check_grouped(shape(40, 24, {0, 7, 0}));
  check_grouped(shape(40, 24, {9, 0, 65}, true, true));
  check_grouped(shape(64, 40, {1, 8, 0, 3}, false, true));
  check_grouped(shape(136, 72, {0, 33}, true));
  check_grouped(shape(72, 136, {130, 1}, true));
}

TEST_CASE("grouped_gemm_hopper: rings go round, tiles follow one another") {
  check_grouped(shape(704, 24, {20, 3}, true));
  check_grouped(shape(200, 280, {2, 130}));
  check_grouped(shape(128, 136, std::vector<int32_t>(9, 5), true, true));
}

TEST_CASE("grouped_gemm_hopper: tiles of every width, experts out of order") {
  GroupedCase c = shape(40, 72, {3, 270, 0, 130, 200, 150, 500}, true);
  c.out_parts = 1;
  check_grouped(c);
  c = shape(24, 40, {150, 260, 40, 230}, false, true);
  check_grouped(c);
}

TEST_CASE("grouped_gemm_hopper: planes of bf16, whole chunks and less") {
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

TEST_CASE("grouped_gemm_hopper: no rows") { check_grouped(shape(40, 24, {0, 0})); }

TEST_CASE("grouped_gemm_hopper: what wgmma does not take goes to mma.sync") {
  check_grouped(shape(44, 24, {2, 5}, true));  // rows that are not whole chunks
  GroupedCase c = shape(40, 24, {3, 0, 10}, true, true);
  c.exact = true;
  check_grouped(c);
  c = shape(40, 24, {3, 0, 10}, true, true);
  c.wgmma = false;
  check_grouped(c);
}

TEST_CASE("grouped_gemm_hopper: no bank conflicts") {
  for (const bool glu : {false, true}) {
    GroupedCase c = shape(128, 128, {128, 0, 48}, glu);
    c.out_parts = 1;
    c.traffic = true;
    check_grouped(c);
  }
}
