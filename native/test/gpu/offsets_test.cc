// Kernels of the decoder on arrays of more than 2^31 elements: the last rows must be what they are alone. In emulation
// the same at a small size.
#include <doctest/doctest.h>

#include <cstring>

#include "bench/cuda/moe_rig.h"
#include "kernels/experts/atoms.h"

using namespace smoe;
using namespace smoe::bench;

namespace {

struct Fixture {
  BenchDevice device;
  bool small = false;
  Fixture() {
    REQUIRE_MESSAGE(device.error().empty(), device.error());
    small = std::strcmp(device.runtime().kind, "emulation") == 0;
  }
  bool fits(int64_t bytes) {
    if (device.memory_free() > static_cast<size_t>(bytes) + (size_t{1} << 30)) return true;
    MESSAGE("skipped: not enough memory on the device");
    return false;
  }
  void finish() { REQUIRE_MESSAGE(device.synchronize(), device.error()); }
  void random(void* to, int64_t words, Fill kind, float scale) {
    REQUIRE(device.ok(fill_random(device.stream(), {static_cast<uint32_t*>(to), words, 21, kind, scale})));
  }
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "offsets: negative log-likelihood") {
  const int64_t vocab = small ? 520 : 131072, tokens = small ? 9 : 16400;
  if (!fits(tokens * vocab * 4)) return;
  const DeviceBlock<float> logits(device, tokens * vocab);
  const DeviceBlock<int32_t> targets(device, std::vector<int32_t>(static_cast<size_t>(tokens), 7));
  const DeviceBlock<double> nll(device, tokens), alone(device, 1);
  random(logits.data(), logits.size(), Fill::Floats, 8);
  cu::NllArgs args;
  args.logits = logits.data();
  args.targets = targets.data();
  args.tokens = tokens;
  args.vocab = vocab;
  args.nll = nll.data();
  REQUIRE(device.ok(device.table().nll(device.stream(), &args)));
  args.logits += (tokens - 1) * vocab;
  args.tokens = 1;
  args.nll = alone.data();
  REQUIRE(device.ok(device.table().nll(device.stream(), &args)));
  finish();
  CHECK(same_bits(nll.download(tokens - 1, 1), alone.download()));
}

TEST_CASE_FIXTURE(Fixture, "offsets: norms of rows") {
  const int64_t width = small ? 72 : 2048, tokens = small ? 11 : (int64_t{1} << 20) + 5;
  if (!fits(2 * tokens * width * 4)) return;
  const DeviceBlock<float> x(device, tokens * width), out(device, tokens * width), alone(device, 2 * width);
  random(x.data(), x.size(), Fill::Floats, 2);
  cu::NormRowsArgs args;
  args.kind = cu::RowNorm::Rms;
  args.x = x.data();
  args.width = args.x_stride = width;
  args.eps = 1e-5f;
  args.max_tokens = tokens;
  args.out = out.data();
  REQUIRE(device.ok(device.table().norm_rows(device.stream(), &args)));
  args.x += (tokens - 2) * width;
  args.max_tokens = 2;
  args.out = alone.data();
  REQUIRE(device.ok(device.table().norm_rows(device.stream(), &args)));
  finish();
  CHECK(same_bits(out.download((tokens - 2) * width, 2 * width), alone.download()));
}

// A matrix of 300 000 rows x 7168 columns, and its last 32 rows as a matrix of their own.
TEST_CASE_FIXTURE(Fixture, "offsets: linear maps") {
  const int64_t k = small ? 48 : 7168, rows = small ? 96 : 300000, last = 32;
  const int64_t words = cu::packed_words(cu::row_blocks(rows), k);
  for (const int64_t tokens : {int64_t{3}, int64_t{80}}) {
    CAPTURE(tokens);
    if (!fits(words * 16 + tokens * rows * 4)) return;
    const DeviceBlock<cu::U32x4> atoms(device, words);
    const DeviceBlock<cu::bf16> x(device, tokens * k);
    const DeviceBlock<float> out(device, tokens * rows), alone(device, tokens * last);
    random(atoms.data(), words * 4, Fill::Bf16, 0.02f);
    random(x.data(), tokens * k / 2, Fill::Bf16, 1);
    cu::LinearArgs args;
    args.weight.atoms = atoms.data();
    args.rows = rows;
    args.k = k;
    args.x = {x.data(), tokens * k, 1};
    args.x_stride = k;
    args.out = out.data();
    args.out_stride = rows;
    args.max_tokens = tokens;
    args.blocks = device.info().sms;
    const auto launch = tokens <= 64 ? device.table().linear_rows : device.table().linear_tiles;
    REQUIRE(device.ok(launch(device.stream(), &args)));
    args.weight.atoms += cu::packed_words(cu::row_blocks(rows - last), k);
    args.rows = args.out_stride = last;
    args.out = alone.data();
    REQUIRE(device.ok(launch(device.stream(), &args)));
    finish();
    for (const int64_t t : {int64_t{0}, tokens - 1}) {
      CHECK(same_bits(out.download(t * rows + rows - last, last), alone.download(t * last, last)));
    }
  }
}
