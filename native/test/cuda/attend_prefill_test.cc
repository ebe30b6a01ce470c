// attend_prefill against double, over f32 and bf16 caches.
#include "attend_case.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

constexpr double kU = 1.0 / (1 << 24);

std::vector<bf16> check(AttendCase c) {
  if (c.value_dim == 0) c.value_dim = c.key_dim;
  return check_attend(c, &launch_attend_prefill, [&](const smoe::reference::Attention& expected, int64_t keys) {
    // A score of d products added one by one errs by (d + 2) u of their sizes, its distance from the largest by u more,
    // an exponential by the sum of both and 4 u. That counts for the weight and for the sum of weights. Then the
    // additions of the keys, and a rescaling per tile of 64 or 32 of them.
    const double score = (c.key_dim + 2) * expected.largest_score + 2 * expected.largest_distance + 4;
    double relative = (4 * score + 2 * static_cast<double>(keys) + 4 * static_cast<double>(keys) / 32 + 64) * kU;
    if (!c.f32) {
      relative += std::ldexp(1.01, -8);  // an exponential is rounded to bf16, and so are those it is divided by
      if (!c.bf16_q) relative += 2 * std::expm1(std::ldexp(expected.largest_score, -9));
    }
    return relative;
  });
}

// Over both kinds of cache; queries as they are over the first alone, where nothing hides what they cost.
void check_both(AttendCase c) {
  c.f32 = true;
  c.parts = 3;
  check(c);
  c.f32 = false;
  c.parts = 1;
  c.bf16_q = true;
  check(c);
}

AttendCase at(int64_t position, int64_t tokens) { return {tokens, tokens, position, 4, 2, 16}; }

}  // namespace

TEST_CASE("attend_prefill: tokens and positions around the ends of tiles") {
  for (const int64_t tokens : {0, 1, 31, 32, 33, 63, 64, 65}) {
    for (const int64_t position : {0, 61}) {
      if (position == 0 || tokens < 34) check_both(at(position, tokens));
    }
  }
  AttendCase padded = at(126, 3);
  padded.max_tokens = 70;
  check_both(padded);
}

TEST_CASE("attend_prefill: windows and sinks") {
  for (const int64_t window : {1, 10, 64, 65, 500}) {
    AttendCase c = at(100, 40);
    c.window = window;
    c.sinks = window % 2 == 0;
    check_both(c);
  }
}

TEST_CASE("attend_prefill: dimensions and groups of heads") {
  check_both({2, 2, 70, 8, 8, 80});
  check_both({9, 9, 63, 10, 1, 20});
  check_both({3, 3, 66, 6, 2, 18});  // rows that are no whole number of 16 bytes
  check_both({5, 5, 5, 2, 1, 24, 40});
  check_both({5, 5, 5, 3, 1, 40, 24});
  check_both({3, 3, 60, 5, 5, 128});
  check_both({2, 2, 33, 2, 1, 256});
  check_both({2, 2, 33, 2, 1, 192, 130});
  check_both({2, 2, 3, 70, 1, 16});  // more heads than a block has rows
}

TEST_CASE("attend_prefill: queries are rounded to bf16 over a bf16 cache") {
  AttendCase c = at(70, 20);
  c.f32 = false;
  check(c);
}

TEST_CASE("attend_prefill: latent caches") {
  check_both({20, 24, 50, 6, 1, 32, 24, true});
  check_both({2, 2, 63, 5, 1, 576, 512, true});
  check_both({1, 1, 40, 70, 1, 48, 32, true});
  check_both({3, 3, 3, 3, 1, 30, 22, true});
  AttendCase c{2, 2, 40, 2, 1, 200, 160, true};
  c.window = 20;
  check_both(c);
}

TEST_CASE("attend_prefill: f32 caches keep f32 accuracy") {
  // What the worst case above allows and chance does not: errors of a few roundings of the largest terms.
  AttendCase c{12, 12, 180, 2, 1, 128, 128};
  check_attend(c, &launch_attend_prefill, [](const smoe::reference::Attention&, int64_t) { return 1.5e-6; });
}

namespace {

// The rows of tokens [from, from + count) of a longer case, on their own.
std::vector<bf16> rows_alone(const AttendCase& c, const AttendInputs& in, int64_t from, int64_t count) {
  AttendCase part = c;
  part.tokens = part.max_tokens = count;
  part.position = c.position + from;
  AttendInputs alone = in;
  alone.q.erase(alone.q.begin(), alone.q.begin() + from * AttendInputs::stride(c));
  return run_attend(part, alone, nth_run(0), &launch_attend_prefill);
}

// Parts [from, from + count) of `all` are `some`.
void same_rows(const AttendCase& c, const std::vector<bf16>& all, const std::vector<bf16>& some, int64_t from,
               int64_t count) {
  const size_t width = static_cast<size_t>(c.heads * c.value_dim);
  for (size_t part = 0; part < static_cast<size_t>(c.parts); ++part) {
    const bf16* const there = &all[(part * static_cast<size_t>(c.max_tokens) + static_cast<size_t>(from)) * width];
    REQUIRE(std::memcmp(there, &some[part * static_cast<size_t>(count) * width],
                        static_cast<size_t>(count) * width * 2) == 0);
  }
}

AttendCase cut_case(bool f32, bool latent) {
  AttendCase c{75, 75, 10, 3, 1, 48, latent ? 32 : 48, latent};
  c.f32 = f32;
  c.parts = f32 ? 3 : 1;
  c.sinks = true;
  return c;
}

}  // namespace

TEST_CASE("attend_prefill: the same bits wherever a prompt is cut") {
  for (const int variant : {0, 1, 2, 3}) {
    AttendCase c = cut_case(variant % 2 == 0, variant / 2 == 1);
    c.window = variant == 1 ? 33 : 0;
    const AttendInputs in(c);
    const auto all = run_attend(c, in, nth_run(0), &launch_attend_prefill);
    const int64_t cuts[] = {0, 1, 38, 54, 75};
    for (int i = 0; i < 4; ++i) {
      const int64_t count = cuts[i + 1] - cuts[i];
      same_rows(c, all, rows_alone(c, in, cuts[i], count), cuts[i], count);
    }
  }
}

TEST_CASE("attend_prefill: what later tokens hold does not reach earlier ones") {
  for (const bool f32 : {true, false}) {
    for (const bool latent : {false, true}) {
      AttendCase c = cut_case(f32, latent);
      c.window = 40;
      AttendInputs in(c);
      const auto before = run_attend(c, in, nth_run(0), &launch_attend_prefill);
      // Token 30 (position 40) has infinite and undefined values, and undefined keys.
      auto& values = latent ? in.keys : in.values;
      values[40 * 48] = INFINITY;
      values[40 * 48 + 20] = NAN;
      in.keys[40 * 48 + 47] = NAN;
      for (const Run& run : all_runs()) {
        const auto after = run_attend(c, in, run, &launch_attend_prefill);
        std::vector<bf16> expected(before), got(after);
        const size_t width = static_cast<size_t>(c.heads * c.value_dim), rows = static_cast<size_t>(c.max_tokens);
        for (size_t part = 0; part < static_cast<size_t>(c.parts); ++part) {
          // Tokens 30 to 69 see position 40, through the window of 40.
          for (size_t i = 30 * width; i < 70 * width; ++i) {
            if (part == 0) REQUIRE(std::isnan(to_float(after[i])));
            expected[part * rows * width + i] = got[part * rows * width + i] = bf16{0};
          }
        }
        REQUIRE(same_bits(expected, got));
      }
    }
  }
}

#ifndef SMOE_TEST_ON_GPU
TEST_CASE("attend_prefill: no bank conflicts, whole sectors") {
  for (const int value_dim : {128, 256, 512}) {
    for (const bool f32 : {true, false}) {
      AttendCase c{4, 4, 70, 4, 1, 128, value_dim};
      if (value_dim == 512) {
        c.key_dim = 576;
        c.latent = true;
      }
      c.f32 = f32;
      CAPTURE(value_dim);
      CAPTURE(f32);
      emu::Traffic traffic;
      run_attend(c, AttendInputs(c), nth_run(0), &launch_attend_prefill, &traffic);
      int shared = 0;
      for (const auto& [number, line] : traffic.lines()) {
        CAPTURE(number);
        if (line.kind == emu::AccessKind::GlobalRead) {
          // The queries of the case begin in the middle of a sector.
          CHECK(32 * line.sectors <= line.bytes + line.bytes / 8);
        } else if (line.kind != emu::AccessKind::GlobalWrite) {
          ++shared;
          CHECK(line.worst_ways == 1);
        }
      }
      CHECK(shared >= 2);
    }
  }
}
#endif

TEST_CASE("attend_prefill: too wide values are refused") {
  Gpu gpu;
  AttendArgs args;
  args.max_tokens = args.heads = args.cache.kv_heads = 1;
  args.value_dim = 513;
  CHECK(launch_attend_prefill(gpu.stream(), args) != 0);
}
