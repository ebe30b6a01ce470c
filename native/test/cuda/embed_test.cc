// Rows of packed matrices, bit for bit.
#include "gpu.h"
#include "kernels/experts/atoms.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

bf16 part_of(float value, int part) {
  for (int i = 0; i < part; ++i) value -= to_float(to_bf16(value));
  return to_bf16(value);
}

void check(int tokens, int max_tokens, int vocab, int hidden, bool exact) {
  CAPTURE(tokens);
  CAPTURE(hidden);
  CAPTURE(exact);
  const auto table = random_floats(size_t(vocab * hidden), 1);
  const int parts = exact ? 3 : 1;
  std::vector<bf16> packed;
  for (int p = 0; p < parts; ++p) {
    std::vector<bf16> part;
    for (const float value : table) part.push_back(part_of(value, p));
    pack_down(part.data(), vocab, hidden, &packed);
  }
  std::vector<U32x4> atoms(packed.size() / 8);
  std::memcpy(atoms.data(), packed.data(), packed.size() * 2);
  std::vector<int32_t> ids;
  for (int t = 0; t < max_tokens; ++t) ids.push_back(t == 0 ? vocab - 1 : (t * 13) % vocab);
  for (const Run& run : all_runs()) {
    Gpu gpu(run);
    auto weights = gpu.constant(atoms, "table");
    auto did = gpu.array(ids, "ids");
    auto count = gpu.array(std::vector<int32_t>{tokens}, "tokens");
    auto x = gpu.array<float>(size_t(max_tokens * hidden), "x");
    EmbedArgs args;
    args.ids = did.data();
    args.table.atoms = weights.data();
    args.table.part_step = int64_t(atoms.size()) / parts;
    args.table.format = exact ? AtomFormat::Bf16x3 : AtomFormat::Bf16;
    args.hidden = hidden;
    args.num_tokens = tokens < max_tokens ? count.data() : nullptr;
    args.max_tokens = max_tokens;
    args.x = x.data();
    REQUIRE(launch_embed(gpu.stream(), args) == 0);
    REQUIRE(gpu.fault() == "");
    REQUIRE(x.unwritten_bytes() == size_t((max_tokens - tokens) * hidden) * 4);
    const auto got = x.download();
    for (int i = 0; i < tokens * hidden; ++i) {
      const float value = table[size_t(ids[size_t(i / hidden)] * hidden + i % hidden)];
      REQUIRE(got[size_t(i)] == (exact ? value : to_float(to_bf16(value))));
    }
  }
}

}  // namespace

TEST_CASE("embed: every row and column of the atoms") {
  for (const bool exact : {false, true}) {
    check(50, 50, 50, 40, exact);
    check(2, 2, 17, 1101, exact);
  }
}

TEST_CASE("embed: tokens") {
  for (const int tokens : {0, 1, 7, 8, 9, 64, 65}) check(tokens, tokens, 33, 18, tokens % 2 == 0);
  check(0, 4, 33, 18, false);
  check(3, 4, 33, 18, true);
}

TEST_CASE("embed: other formats are refused") {
  Gpu gpu;
  EmbedArgs args;
  args.hidden = args.max_tokens = 1;
  args.table.format = AtomFormat::W4;
  CHECK(launch_embed(gpu.stream(), args) != 0);
}
