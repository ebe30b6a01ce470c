// Layout probes: what tensor instructions do with every element, and what pure functions give, written out as integers
// so that a GPU and the emulator must agree in every bit. layouts.json holds a fingerprint of each probe's output; the
// emulator makes it (SMOE_PROBES_OUT=FILE writes what was seen) and scripts/gpu-check confirms it on silicon.
#include <fstream>
#include <map>
#include <sstream>

#include "gpu.h"

using namespace smoe::cu;
using namespace smoe::cu::test;

namespace {

// FNV-1a, 64 bits.
template <class T>
std::string fingerprint(const std::vector<T>& values) {
  uint64_t hash = 0xCBF29CE484222325u;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 0x100000001B3u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

// "name": "fingerprint" pairs, one a line.
std::map<std::string, std::string> golden() {
  std::ifstream file(SMOE_SOURCE_DIR "/native/test/cuda/layouts.json");
  std::map<std::string, std::string> pairs;
  std::string line;
  while (std::getline(file, line)) {
    std::vector<std::string> words;
    std::istringstream parts(line);
    for (std::string word; std::getline(parts, word, '"');) words.push_back(word);
    if (words.size() >= 4) pairs[words[1]] = words[3];
  }
  return pairs;
}

template <class T>
void compare_with_golden(const std::string& name, const std::vector<T>& values) {
  const std::string seen = fingerprint(values);
  if (const char* const path = std::getenv("SMOE_PROBES_OUT"); path != nullptr) {
    std::ofstream(path, std::ios::app) << "  \"" << name << "\": \"" << seen << "\",\n";
  }
  CAPTURE(name);
  CHECK(golden()[name] == seen);
}

struct ProbeArgs {
  uint32_t* out;
  Swizzle swizzle;
  int step;  // of 16 columns of K inside a swizzled row
};

// Block s sets the s-th 16-bit slot of A to 1; B holds k + 1, or column + 1. Output: all of C.
SMOE_KERNEL(32, 1) probe_mma_a16(ProbeArgs args) {
  const int slot = bid() % 256, by_column = bid() / 256;
  uint32_t a[4] = {}, b[2] = {};
  if (slot / 8 == lane()) a[slot % 8 / 2] = uint32_t{0x3F80} << (16 * (slot & 1));
  for (int reg = 0; reg < 2; ++reg) {
    const Element low = b16_element(lane(), reg, 0), high = b16_element(lane(), reg, 1);
    b[reg] = pack2(static_cast<float>(1 + (by_column ? low.col : low.row)),
                   static_cast<float>(1 + (by_column ? high.col : high.row)));
  }
  float c[4] = {};
  mma_bf16(c, a, b);
  for (int i = 0; i < 4; ++i) stg(args.out + off(bid(), 128) + lane() * 4 + i, bit_cast<uint32_t>(c[i]));
}

// The same for bytes: s8 with marks up to 32; u8 times s8 with 255 in A and negative marks.
template <bool codes>
SMOE_KERNEL(32, 1)
probe_mma_a8(ProbeArgs args) {
  const int slot = bid() % 512, by_column = bid() / 512;
  uint32_t a[4] = {}, b[2] = {};
  if (slot / 16 == lane()) a[slot % 16 / 4] = uint32_t{codes ? 255u : 1u} << (8 * (slot & 3));
  for (int reg = 0; reg < 2; ++reg) {
    for (int byte = 0; byte < 4; ++byte) {
      const Element at = b8_element(lane(), reg, byte);
      const int mark = 1 + (by_column ? at.col : at.row);
      b[reg] |= static_cast<uint32_t>((codes ? -mark : mark) & 0xFF) << (8 * byte);
    }
  }
  int32_t c[4] = {};
  if (codes) {
    mma_u8s8(c, a, b);
  } else {
    mma_s8(c, a, b);
  }
  for (int i = 0; i < 4; ++i) stg(args.out + off(bid(), 128) + lane() * 4 + i, static_cast<uint32_t>(c[i]));
}

// Byte b of row r of matrix m holds its own address.
SMOE_KERNEL(32, 1) probe_ldmatrix(ProbeArgs args) {
  SMOE_SMEM(uint32_t, tile, 128);
  for (int i = lane(); i < 128; i += 32) sts(tile + i, static_cast<uint32_t>(2 * i | (2 * i + 1) << 16));
  sync_warp();
  uint32_t four[4], two[2];
  // Rows handed out backwards: the address of every lane matters.
  ldmatrix_x4(four, tile + (31 - lane()) * 4);
  ldmatrix_x2(two, tile + (15 - lane() % 16) * 4);
  for (int i = 0; i < 4; ++i) stg(args.out + lane() * 6 + i, four[i]);
  for (int i = 0; i < 2; ++i) stg(args.out + lane() * 6 + 4 + i, two[i]);
}

constexpr int kWgmmaPasses = 32;

template <int N>
SMOE_HD constexpr int probe_lead() {
  return N * 16 + 16;  // padded, so that lead and stride cannot be taken for one another
}
template <int N>
SMOE_HD constexpr int probe_shared() {
  return N / 8 * 1024 + 2 * probe_lead<N>();
}

// One wgmma. Row r of A has r + 1 in column (r + shift) % 16 and nothing else; B holds k + 1, or column + 1, where the
// descriptor's map says, and NaN elsewhere. All products are integers below 2^14.
template <int N>
SMOE_KERNEL(128, 1)
probe_wgmma(ProbeArgs args) {
  SMOE_SMEM_DYN(unsigned char, tile);
  const int shift = bid() % 16, by_column = bid() / 16;
  const uint32_t stride = args.swizzle == Swizzle::None       ? 128
                          : args.swizzle == Swizzle::Bytes128 ? 1024
                          : args.swizzle == Swizzle::Bytes64  ? 512
                                                              : 256;
  const uint32_t base = shared_address(tile);
  const uint64_t b = wgmma_descriptor(base + 32 * static_cast<uint32_t>(args.step),
                                      args.swizzle == Swizzle::None ? probe_lead<N>() : 16, stride, args.swizzle);
  for (int i = tid(); i < probe_shared<N>() / 4; i += nthreads()) {
    sts(reinterpret_cast<uint32_t*>(tile) + i, 0xFFF1FFF1u);
  }
  sync();
  for (int i = tid(); i < N * 16; i += nthreads()) {
    const int n = i / 16, k = i % 16;
    const uint32_t at = wgmma_b_address(b, n, k) - (base & 0x3FFFFu);
    sts(reinterpret_cast<bf16*>(tile + at), to_bf16(static_cast<float>(1 + (by_column ? n : k))));
  }
  fence_proxy_async();
  sync();
  uint32_t a[4];
  for (int reg = 0; reg < 4; ++reg) {
    float value[2];
    for (int half = 0; half < 2; ++half) {
      const Element at = a16_element(lane(), reg, half);
      const int row = 16 * warp() + at.row;
      value[half] = at.col == (row + shift) % 16 ? static_cast<float>(row + 1) : 0.0f;
    }
    a[reg] = pack2(value[0], value[1]);
  }
  float acc[N / 2] = {};
  wgmma_fence();
  wgmma_rs<N>(acc, a, b);
  wgmma_commit();
  wgmma_wait<0>();
  for (int reg = 0; reg < N / 2; ++reg) {
    stg(args.out + off(bid(), 64 * N) + tid() * (N / 2) + reg, bit_cast<uint32_t>(acc[reg]));
  }
}

std::vector<uint32_t> run(void (*kernel)(ProbeArgs), const Shape& shape, size_t words, ProbeArgs args = {}) {
  Gpu gpu;
  auto out = gpu.array<uint32_t>(words, "out");
  args.out = out.data();
  REQUIRE(launch(gpu.stream(), shape, kernel, args) == 0);
  REQUIRE(gpu.fault() == "");
  REQUIRE(out.unwritten_bytes() == 0);
  return out.download();
}

template <int N>
void check_wgmma(Swizzle swizzle, const char* name, int steps) {
  for (int step = 0; step < steps; ++step) {
    const auto got = run(&probe_wgmma<N>, {kWgmmaPasses, 128, probe_shared<N>(), false},
                         static_cast<size_t>(kWgmmaPasses * 64 * N), {nullptr, swizzle, step});
    int wrong = 0;
    for (int block = 0; block < kWgmmaPasses; ++block) {
      for (int thread = 0; thread < 128; ++thread) {
        for (int reg = 0; reg < N / 2; ++reg) {
          const Element at = wgmma_d_element(thread / 32, thread % 32, reg);
          const int k = (at.row + block % 16) % 16;
          const float expected = static_cast<float>((at.row + 1) * (block / 16 ? at.col + 1 : k + 1));
          wrong += got[static_cast<size_t>((block * 128 + thread) * (N / 2) + reg)] != bit_cast<uint32_t>(expected);
        }
      }
    }
    CAPTURE(N);
    CAPTURE(name);
    CAPTURE(step);
    CHECK(wrong == 0);
    compare_with_golden("wgmma_rs n" + std::to_string(N) + " " + name + " step " + std::to_string(step), got);
  }
}

template <int N>
void check_wgmma_modes() {
  check_wgmma<N>(Swizzle::None, "no swizzle", 1);
  check_wgmma<N>(Swizzle::Bytes32, "32 bytes", 1);
  check_wgmma<N>(Swizzle::Bytes64, "64 bytes", 2);
  check_wgmma<N>(Swizzle::Bytes128, "128 bytes", 4);
}

struct PureArgs {
  const uint32_t* in;
  uint32_t* out;  // [count][5]
  int count;
};

SMOE_KERNEL(128, 1) probe_pure(PureArgs args) {
  for (int i = bid() * nthreads() + tid(); i < args.count; i += nblocks() * nthreads()) {
    const uint32_t a = ldg(args.in + i), b = ldg(args.in + (i + 1) % args.count), c = a * 0x9E3779B9u ^ b;
    uint32_t* const out = args.out + off(i, 5);
    stg(out, prmt(a, b, c & 0xFFFFu));
    stg(out + 1, lop3<0xEA>(a, b, c));
    const uint32_t sum = fma_bf16x2(a & 0xBFFFBFFFu, b & 0xBFFFBFFFu, c & 0xBFFFBFFFu);  // finite
    stg(out + 2, sum);
    stg(out + 3, static_cast<uint32_t>(to_bf16(bit_cast<float>(a)).bits));
    stg(out + 4, static_cast<uint32_t>(to_e4m3(bit_cast<float>(b)).bits));
  }
}

SMOE_KERNEL(256, 1) probe_half(PureArgs args) {
  for (int i = bid() * nthreads() + tid(); i < args.count; i += nblocks() * nthreads()) {
    stg(args.out + i, bit_cast<uint32_t>(half_to_float(ldg(args.in + i))));
  }
}

}  // namespace

TEST_CASE("probe: m16n8k16, every slot of A") {
  const auto got = run(&probe_mma_a16, {512, 32, 0, false}, 512 * 128);
  for (int block = 0; block < 512; ++block) {
    const int slot = block % 256;
    const Element a = a16_element(slot / 8, slot % 8 / 2, slot % 2);
    for (int i = 0; i < 128; ++i) {
      const Element c = c_element(i / 4, i % 4);
      const float expected = c.row != a.row ? 0.0f : static_cast<float>(1 + (block / 256 ? c.col : a.col));
      REQUIRE(got[static_cast<size_t>(block * 128 + i)] == bit_cast<uint32_t>(expected));
    }
  }
  compare_with_golden("mma m16n8k16 bf16", got);
}

namespace {

// factor: of the marks, what A and their sign make of them.
std::vector<uint32_t> check_mma_a8(void (*kernel)(ProbeArgs), int factor) {
  const auto got = run(kernel, {1024, 32, 0, false}, 1024 * 128);
  for (int block = 0; block < 1024; ++block) {
    const int slot = block % 512;
    const Element a = a8_element(slot / 16, slot % 16 / 4, slot % 4);
    for (int i = 0; i < 128; ++i) {
      const Element c = c_element(i / 4, i % 4);
      const int expected = c.row != a.row ? 0 : factor * (1 + (block / 512 ? c.col : a.col));
      REQUIRE(got[static_cast<size_t>(block * 128 + i)] == static_cast<uint32_t>(expected));
    }
  }
  return got;
}

}  // namespace

TEST_CASE("probe: m16n8k32, every slot of A") {
  compare_with_golden("mma m16n8k32 s8", check_mma_a8(&probe_mma_a8<false>, 1));
  compare_with_golden("mma m16n8k32 u8 s8", check_mma_a8(&probe_mma_a8<true>, -255));
}

TEST_CASE("probe: ldmatrix") { compare_with_golden("ldmatrix x4, x2", run(&probe_ldmatrix, {1, 32, 0, false}, 192)); }

TEST_CASE("probe: wgmma, A from registers, every descriptor mode") {
  if (!Gpu().has_wgmma()) {
    MESSAGE("skipped: this device has no wgmma");
    return;
  }
  check_wgmma_modes<8>();
  check_wgmma_modes<16>();
  check_wgmma_modes<32>();
  check_wgmma_modes<64>();
  check_wgmma_modes<128>();
}

TEST_CASE("probe: pure functions") {
  std::vector<uint32_t> in;
  std::mt19937 random(5);  // the same on every machine, whatever SMOE_TEST_SEED says: it is compared with a file
  for (int i = 0; i < 4096; ++i) in.push_back(static_cast<uint32_t>(random()));
  Gpu gpu;
  auto from = gpu.array(in, "in");
  auto out = gpu.array<uint32_t>(in.size() * 5, "out");
  REQUIRE(launch(gpu.stream(), {4, 128, 0, false}, &probe_pure, PureArgs{from.data(), out.data(), 4096}) == 0);
  REQUIRE(gpu.fault() == "");
  compare_with_golden("prmt, lop3, fma_bf16x2, to_bf16, to_e4m3", out.download());
}

TEST_CASE("probe: every finite f16 as f32, subnormals and both zeros too") {
  std::vector<uint32_t> in;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7C00) != 0x7C00) in.push_back(bits | bits << 16);  // the upper half is not looked at
  }
  Gpu gpu;
  auto from = gpu.array(in, "in");
  auto out = gpu.array<uint32_t>(in.size(), "out");
  const PureArgs args{from.data(), out.data(), static_cast<int>(in.size())};
  REQUIRE(launch(gpu.stream(), {4, 256, 0, false}, &probe_half, args) == 0);
  REQUIRE(gpu.fault() == "");
  const std::vector<uint32_t> got = out.download();
  for (size_t i = 0; i < in.size(); ++i) {
    REQUIRE(got[i] == bit_cast<uint32_t>(to_float(f16{static_cast<uint16_t>(in[i])})));
  }
}
