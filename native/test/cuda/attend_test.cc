// attend_split and attend_merge against double.
#include "attend_case.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

std::vector<bf16> check(AttendCase c) {
  if (c.value_dim == 0) c.value_dim = c.key_dim;
  return check_attend(c, nullptr, [&](const smoe::reference::Attention& expected, int64_t keys) {
    // An f32 score of d products errs by (d/8 + 5) 2^-24 of their sizes, its distance from the largest by 2^-24 more;
    // an exponential by the sum of both and 2^-22. That counts for the weight and for the sum of weights. Then the
    // additions of a warp's keys, a rescaling per page and the merge.
    const double score = (c.key_dim / 8 + 5) * expected.largest_score + expected.largest_distance + 4;
    return (4 * score + 2 * static_cast<double>(keys) / 4 + 2 * static_cast<double>(keys) / 64 + 2 * c.splits + 32) *
           std::ldexp(1.0, -24);
  });
}

AttendCase at(int64_t position, int64_t tokens = 1) { return {tokens, tokens, position, 4, 1, 16}; }

}  // namespace

TEST_CASE("attend: positions around the ends of pages") {
  for (const int64_t position : {0, 1, 62, 63, 64, 65, 127, 128, 130}) {
    AttendCase c = at(position);
    c.splits = position % 3 == 0 ? 1 : 3;
    check(c);
  }
  check(at(0, 0));
  AttendCase padded = at(61, 3);
  padded.max_tokens = 5;
  padded.splits = 2;
  check(padded);
}

TEST_CASE("attend: windows, sinks, bf16 caches, one part") {
  for (const int64_t window : {1, 10, 64, 65, 500}) {
    AttendCase c = at(129, 3);
    c.window = window;
    c.sinks = window % 2 == 0;
    c.splits = 2;
    c.f32 = window == 65;
    c.parts = c.f32 ? 3 : 1;
    check(c);
  }
}

TEST_CASE("attend: dimensions and groups of heads") {
  for (const bool f32 : {true, false}) {
    AttendCase c{2, 2, 70, 8, 8, 80};
    c.f32 = f32;
    check(c);
    c = {3, 3, 63, 10, 1, 20};  // two blocks share a KV head
    c.f32 = f32;
    c.splits = 4;
    check(c);
    c = {1, 1, 66, 6, 2, 18};  // rows that are no whole number of vectors
    c.f32 = f32;
    c.sinks = true;
    check(c);
    c = {1, 1, 5, 2, 1, 24, 40};
    c.f32 = f32;
    check(c);
    c = {1, 1, 5, 2, 2, 16, 256};
    c.f32 = f32;
    check(c);
  }
}

TEST_CASE("attend: latent caches") {
  for (const bool f32 : {true, false}) {
    AttendCase c{3, 4, 64, 6, 1, 32, 24, true};
    c.f32 = f32;
    c.splits = 2;
    check(c);
    c = {1, 1, 65, 5, 1, 576, 512, true};
    c.f32 = f32;
    c.parts = f32 ? 3 : 1;
    check(c);
    c = {1, 1, 3, 3, 1, 30, 24, true};
    c.f32 = f32;
    check(c);
  }
}

TEST_CASE("attend: 65 rows") {
  AttendCase c{65, 65, 0, 2, 1, 16};
  c.splits = 2;
  check(c);
}

TEST_CASE("attend: without partial sums the same bits as one split; a row's bits do not depend on the others") {
  AttendCase c{3, 3, 126, 4, 2, 16, 16};
  c.sinks = true;
  const AttendInputs in(c);
  const Run run = nth_run(0);
  const auto merged = run_attend(c, in, run);
  c.direct = true;
  CHECK(same_bits(merged, run_attend(c, in, run)));
  c.direct = false;
  c.splits = 3;
  const auto all = run_attend(c, in, run);
  for (int row = 0; row < 3; ++row) {
    AttendCase one = c;
    one.tokens = one.max_tokens = 1;
    one.position = c.position + row;
    AttendInputs alone = in;
    alone.q.erase(alone.q.begin(), alone.q.begin() + row * AttendInputs::stride(c));
    const auto out = run_attend(one, alone, run);
    const size_t width = 4 * 16;
    for (size_t part = 0; part < 3; ++part)
      CHECK(std::memcmp(&out[part * width], &all[(part * 3 + static_cast<size_t>(row)) * width], width * 2) == 0);
  }
}
