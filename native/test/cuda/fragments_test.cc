// Fragment maps and tensor instructions against the formulas of the manual (PTX ISA, "Matrix Fragments for mma.m16n8k16
// with floating point type", "... mma.m16n8k32", "ldmatrix"), one element at a time.
#include <cstring>
#include <set>

#include "gpu.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

// The manual counts elements of a thread's fragment: i-th of a, b, c.
struct Manual {
  static Element a16(int lane, int i) {
    return {(i / 2) % 2 == 0 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8)};
  }
  static Element b16(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane / 4}; }
  static Element a8(int lane, int i) {
    const bool upper = (i >= 0 && i < 4) || (i >= 8 && i < 12);
    return {upper ? lane / 4 : lane / 4 + 8, lane % 4 * 4 + (i & 3) + (i < 8 ? 0 : 16)};
  }
  static Element b8(int lane, int i) { return {lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16), lane / 4}; }
  static Element c(int lane, int i) { return {i < 2 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1)}; }
};

bool same(Element x, Element y) { return x.row == y.row && x.col == y.col; }

struct MmaArgs {
  const uint32_t* a;  // [32][4]
  const uint32_t* b;  // [32][2]
  uint32_t* c;        // [32][4]
};

enum class Kind { Bf16, S8, U8S8, E4m3 };

SMOE_HD constexpr bool is_integer(Kind kind) { return kind == Kind::S8 || kind == Kind::U8S8; }

template <Kind kind>
SMOE_KERNEL(32, 1)
one_mma(MmaArgs args) {
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = ldg(args.a + lane() * 4 + i);
  for (int i = 0; i < 2; ++i) b[i] = ldg(args.b + lane() * 2 + i);
  float c[4] = {};
  int32_t d[4] = {};
  if (kind == Kind::Bf16) mma_bf16(c, a, b);
  if (kind == Kind::E4m3) mma_e4m3(c, a, b);
  if (kind == Kind::S8) mma_s8(d, a, b);
  if (kind == Kind::U8S8) mma_u8s8(d, a, b);
  for (int i = 0; i < 4; ++i) {
    stg(args.c + lane() * 4 + i, is_integer(kind) ? static_cast<uint32_t>(d[i]) : bit_cast<uint32_t>(c[i]));
  }
}

// Runs one mma on matrices given by element, through the manual's formulas only.
template <Kind kind>
struct Machine {
  static constexpr int K = kind == Kind::Bf16 ? 16 : 32;
  Gpu gpu;
  emu::Buffer<uint32_t> a = gpu.array<uint32_t>(128, "a"), b = gpu.array<uint32_t>(64, "b");
  emu::Buffer<uint32_t> c = gpu.array<uint32_t>(128, "c");

  template <class A, class B>
  std::vector<double> run(A at_a, B at_b) {
    std::vector<uint32_t> wa(128, 0), wb(64, 0);
    for (int lane = 0; lane < 32; ++lane) {
      if (kind == Kind::Bf16) {
        for (int i = 0; i < 8; ++i) {
          const Element e = Manual::a16(lane, i);
          wa[lane * 4 + i / 2] |= static_cast<uint32_t>(to_bf16(at_a(e.row, e.col)).bits) << (16 * (i & 1));
        }
        for (int i = 0; i < 4; ++i) {
          const Element e = Manual::b16(lane, i);
          wb[lane * 2 + i / 2] |= static_cast<uint32_t>(to_bf16(at_b(e.row, e.col)).bits) << (16 * (i & 1));
        }
      } else {
        const auto byte = [](float x) {
          return is_integer(kind) ? static_cast<uint8_t>(static_cast<int>(x)) : to_e4m3(x).bits;
        };
        for (int i = 0; i < 16; ++i) {
          const Element e = Manual::a8(lane, i);
          wa[lane * 4 + i / 4] |= static_cast<uint32_t>(byte(at_a(e.row, e.col))) << (8 * (i & 3));
        }
        for (int i = 0; i < 8; ++i) {
          const Element e = Manual::b8(lane, i);
          wb[lane * 2 + i / 4] |= static_cast<uint32_t>(byte(at_b(e.row, e.col))) << (8 * (i & 3));
        }
      }
    }
    a.upload(wa);
    b.upload(wb);
    launch(gpu.stream(), {1, 32, 0, false}, &one_mma<kind>, {a.data(), b.data(), c.data()});
    REQUIRE(gpu.fault() == "");
    const auto words = c.download();
    std::vector<double> result(16 * 8);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const Element e = Manual::c(lane, i);
        const uint32_t word = words[lane * 4 + i];
        result[e.row * 8 + e.col] = is_integer(kind) ? static_cast<int32_t>(word) : bit_cast<float>(word);
      }
    }
    return result;
  }
};

// One-hot A against a B whose entries all differ shows every (row, k); one-hot B every (k, column).
template <Kind kind>
void check_one_hot() {
  Machine<kind> machine;
  constexpr int K = Machine<kind>::K;
  // Distinct and exact in every type: bf16 and s8 hold -128..127, e4m3 only 4 significant bits, so columns differ by
  // powers of two there.
  const auto mark = [](int k, int col) {
    return kind == Kind::E4m3 ? static_cast<float>((k % 8 + 8) * 0.125) * std::ldexp(1.0f, col - 4)
                              : static_cast<float>((k * 8 + col) % 255 - 127);
  };
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < K; ++k) {
      const auto c = machine.run([&](int r, int x) { return r == row && x == k ? 1.0f : 0.0f; }, mark);
      for (int i = 0; i < 128; ++i) REQUIRE(c[i] == (i / 8 == row ? mark(k, i % 8) : 0.0f));
    }
  }
  for (int k = 0; k < K; ++k) {
    for (int col = 0; col < 8; ++col) {
      const float bias = kind == Kind::U8S8 ? 127.0f : 0.0f;  // its A has no signs
      const auto mark_a = [&](int r, int x) { return mark(x, r % 8) + bias; };
      const auto c = machine.run(mark_a, [&](int x, int n) { return x == k && n == col ? 1.0f : 0.0f; });
      for (int i = 0; i < 128; ++i) REQUIRE(c[i] == (i % 8 == col ? mark_a(i / 8, k) : 0.0f));
    }
  }
}

}  // namespace

TEST_CASE("fragment maps are the manual's") {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) CHECK(same(a16_element(lane, i / 2, i % 2), Manual::a16(lane, i)));
    for (int i = 0; i < 4; ++i) CHECK(same(b16_element(lane, i / 2, i % 2), Manual::b16(lane, i)));
    for (int i = 0; i < 16; ++i) CHECK(same(a8_element(lane, i / 4, i % 4), Manual::a8(lane, i)));
    for (int i = 0; i < 8; ++i) CHECK(same(b8_element(lane, i / 4, i % 4), Manual::b8(lane, i)));
    for (int i = 0; i < 4; ++i) CHECK(same(c_element(lane, i), Manual::c(lane, i)));
  }
}

TEST_CASE("wgmma accumulators cover the tile once") {
  for (int n = 8; n <= 256; n += 8) {
    std::set<std::pair<int, int>> seen;
    for (int thread = 0; thread < 128; ++thread) {
      for (int reg = 0; reg < n / 2; ++reg) {
        const Element e = wgmma_d_element(thread / 32, thread % 32, reg);
        CHECK((e.row >= 0 && e.row < 64 && e.col >= 0 && e.col < n));
        seen.insert({e.row, e.col});
      }
    }
    CHECK(seen.size() == static_cast<size_t>(64 * n));
  }
}

TEST_CASE("the byte order of K is a permutation that keeps a lane's bytes with its 16-bit columns") {
  std::set<int> seen;
  for (int slot = 0; slot < 32; ++slot) seen.insert(physical_k(slot));
  CHECK(seen.size() == 32);
  for (int t = 0; t < 4; ++t) {
    for (int i = 0; i < 4; ++i) {
      const int column = 2 * t + (i & 1 ? 8 : 0) + (i & 2 ? 1 : 0);
      CHECK(physical_k(4 * t + i) == column);
      CHECK(physical_k(16 + 4 * t + i) == 16 + column);
    }
  }
}

TEST_CASE("mma one-hot, bf16") { check_one_hot<Kind::Bf16>(); }
TEST_CASE("mma one-hot, s8") { check_one_hot<Kind::S8>(); }
TEST_CASE("mma one-hot, u8 times s8") { check_one_hot<Kind::U8S8>(); }
TEST_CASE("mma one-hot, e4m3") { check_one_hot<Kind::E4m3>(); }

TEST_CASE("s8 mma is exact at its extremes") {
  Machine<Kind::S8> machine;
  const auto c =
      machine.run([](int, int) { return -128.0f; }, [](int, int n) { return n % 2 == 0 ? -128.0f : 127.0f; });
  for (int i = 0; i < 128; ++i) CHECK(c[i] == (i % 2 == 0 ? 32 * 16384 : -32 * 128 * 127));
}

TEST_CASE("u8 times s8 mma: A has no sign, B has one") {
  Machine<Kind::U8S8> machine;
  const auto c = machine.run([](int row, int) { return row % 2 == 0 ? 255.0f : 128.0f; },
                             [](int, int n) { return n % 2 == 0 ? -128.0f : 127.0f; });
  for (int i = 0; i < 128; ++i) {
    CHECK(c[i] == 32 * (i / 8 % 2 == 0 ? 255 : 128) * (i % 2 == 0 ? -128 : 127));
  }
}

namespace {

struct LdmatrixArgs {
  uint32_t* out;  // [32][10]
};

// Element (matrix, row, col) holds 64*matrix + 8*row + col.
SMOE_KERNEL(32, 1) load_matrices(LdmatrixArgs args) {
  SMOE_SMEM(uint32_t, tile, 4 * 8 * 4);
  for (int i = lane(); i < 128; i += 32) sts(tile + i, static_cast<uint32_t>(2 * i | (2 * i + 1) << 16));
  sync_warp();
  uint32_t four[4], two[2], turned[4];
  ldmatrix_x4(four, tile + lane() * 4);
  ldmatrix_x2(two, tile + (lane() % 16 + 16) * 4);
  ldmatrix_x4_trans(turned, tile + lane() * 4);
  for (int i = 0; i < 4; ++i) stg(args.out + lane() * 10 + i, four[i]);
  for (int i = 0; i < 2; ++i) stg(args.out + lane() * 10 + 4 + i, two[i]);
  for (int i = 0; i < 4; ++i) stg(args.out + lane() * 10 + 6 + i, turned[i]);
}

}  // namespace

TEST_CASE("ldmatrix") {
  Gpu gpu;
  auto out = gpu.array<uint32_t>(32 * 10, "out");
  launch(gpu.stream(), {1, 32, 0, false}, &load_matrices, {out.data()});
  REQUIRE(gpu.fault() == "");
  const auto words = out.download();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 10; ++i) {
      const int matrix = i < 4 ? i : i < 6 ? i - 4 + 2 : i - 6;
      for (int half = 0; half < 2; ++half) {
        const int first = lane / 4, second = lane % 4 * 2 + half, row = i < 6 ? first : second;
        const int col = i < 6 ? second : first;
        CHECK((words[lane * 10 + i] >> (16 * half) & 0xFFFF) == 64u * matrix + 8u * row + col);
      }
    }
  }
}

namespace {

struct StmatrixArgs {
  uint32_t* out;  // [128]
};

// Register i of a lane holds the numbers of elements 64 i + 2 lane and the next; rows are handed out backwards.
SMOE_KERNEL(32, 1) store_matrices(StmatrixArgs args) {
  SMOE_SMEM(uint32_t, tile, 4 * 8 * 4);
  uint32_t value[4];
  for (int i = 0; i < 4; ++i) value[i] = static_cast<uint32_t>(64 * i + 2 * lane()) * 0x10001u + 0x10000u;
  stmatrix_x4_trans(tile + (31 - lane()) * 4, value);
  sync_warp();
  for (int i = lane(); i < 128; i += 32) stg(args.out + i, lds(tile + i));
}

}  // namespace

TEST_CASE("stmatrix") {
  Gpu gpu;
  if (!gpu.has_wgmma()) return;  // both came with sm_90
  auto out = gpu.array<uint32_t>(128, "out");
  launch(gpu.stream(), {1, 32, 0, false}, &store_matrices, {out.data()});
  REQUIRE(gpu.fault() == "");
  const auto words = out.download();
  for (int i = 0; i < 256; ++i) {
    // Element i of memory is column i % 8 of row i / 8, which lane 31 - i / 8 gave: row r of matrix m from lane 8 m +
    // r, column r of what the registers hold.
    const int from = 31 - i / 8, matrix = from / 8, col = from % 8, row = i % 8;
    CHECK((words[size_t(i) / 2] >> (16 * (i & 1)) & 0xFFFF) == uint32_t(64 * matrix + 8 * row + col));
  }
}
