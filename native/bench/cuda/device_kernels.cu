// Kernels of the benchmark. Each is launched through cu::launch, as the library's are.
#include "device_kernels.h"

#include "cuda/cu.h"
#include "cuda/launch_stream.h"

namespace smoe::bench {
namespace {

using namespace cu;

constexpr int kThreads = 512;
constexpr int kReadUnroll = 8;

// The finaliser of MurmurHash3 over a counter.
SMOE_DEVICE uint32_t hash(uint64_t index, uint32_t seed) {
  uint32_t x = static_cast<uint32_t>(index) * 0x9E3779B9u + static_cast<uint32_t>(index >> 32) * 0x85EBCA6Bu + seed;
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

SMOE_DEVICE float centred(uint32_t bits16) { return (static_cast<float>(bits16) - 32767.5f) * (1 / 32768.0f); }

SMOE_DEVICE uint32_t word_of(const FillArgs& args, int64_t i) {
  const uint32_t bits = hash(static_cast<uint64_t>(i), args.seed);
  switch (args.kind) {
    case Fill::Bf16:
      return pack2(centred(bits & 0xFFFFu) * args.scale, centred(bits >> 16) * args.scale);
    case Fill::F8:
      return bits & 0xFEFEFEFEu;  // NaN is S1111111
    case Fill::T2:
      return bits & ~(bits >> 1 & bits & 0x55555555u);  // 3 becomes 2
    case Fill::Floats:
      return bit_cast<uint32_t>(centred(bits >> 16) * args.scale);
    case Fill::Word:
      return args.seed;
    default:
      return bits;
  }
}

SMOE_KERNEL(kThreads, 2) fill_kernel(FillArgs args) {
  const int64_t step = int64_t{nblocks()} * nthreads();
  for (int64_t i = int64_t{bid()} * nthreads() + tid(); i < args.words; i += step) stg(args.to + i, word_of(args, i));
}

// Four uniform numbers add up to something near a normal one, of variance 4/3 before the factor.
SMOE_KERNEL(kThreads, 2) activation_kernel(ActivationArgs args) {
  const int64_t step = int64_t{nblocks()} * nthreads();
  for (int64_t pair = int64_t{bid()} * nthreads() + tid(); pair < args.count / 2; pair += step) {
    float value[2];
    for (int half = 0; half < 2; ++half) {
      const uint32_t a = hash(static_cast<uint64_t>(4 * pair + 2 * half), args.seed);
      const uint32_t b = hash(static_cast<uint64_t>(4 * pair + 2 * half + 1), args.seed);
      value[half] = (centred(a & 0xFFFFu) + centred(a >> 16) + centred(b & 0xFFFFu) + centred(b >> 16)) * 0.8660254f;
      stg(args.x + 2 * pair + half, value[half]);
    }
    stg(static_cast<uint32_t*>(args.plane) + pair, pack2(value[0], value[1]));
  }
}

SMOE_DEVICE uint32_t folded(const U32x4& v) { return v.x[0] ^ v.x[1] ^ v.x[2] ^ v.x[3]; }

// Loads are volatile: a lap that finds nothing new is read all the same.
SMOE_KERNEL(kThreads, 2) read_kernel(ReadArgs args) {
  const U32x4* const from = static_cast<const U32x4*>(args.from);
  const int64_t count = args.bytes / 16, step = int64_t{nblocks()} * nthreads();
  uint32_t sum = 0;
  for (int lap = 0; lap < args.laps; ++lap) {
    int64_t i = int64_t{bid()} * nthreads() + tid();
    for (; i + (kReadUnroll - 1) * step < count; i += kReadUnroll * step) {
      U32x4 v[kReadUnroll];
      SMOE_UNROLL
      for (int j = 0; j < kReadUnroll; ++j) v[j] = ldg_stream(from + i + j * step);
      SMOE_UNROLL
      for (int j = 0; j < kReadUnroll; ++j) sum ^= folded(v[j]);
    }
    for (; i < count; i += step) sum ^= folded(ldg_stream(from + i));
  }
  stg(args.sink + int64_t{bid()} * nthreads() + tid(), sum);
}

constexpr int kMultiplyThreads = 256;
constexpr int kMmaChains = 8;  // independent accumulators per warp: an mma.sync takes about 32 clocks
constexpr int kWgmmaColumns = 128;
constexpr int kWgmmaSteps = 4;  // of k16 along one swizzled tile of 64 columns of K
constexpr int kWgmmaShared = kWgmmaColumns * 128;

SMOE_KERNEL(kMultiplyThreads, 2) mma_kernel(MultiplyArgs args) {
  float acc[kMmaChains][4] = {};
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i)
    a[i] = pack2(centred(hash(tid() * 8 + i, 1) >> 16), centred(hash(tid() * 8 + i, 2) >> 16));
  for (int i = 0; i < 2; ++i)
    b[i] = pack2(centred(hash(tid() * 8 + i, 3) >> 16), centred(hash(tid() * 8 + i, 4) >> 16));
  for (int n = 0; n < args.iterations; ++n) {
    SMOE_UNROLL
    for (int chain = 0; chain < kMmaChains; ++chain) mma_bf16(acc[chain], a, b);
  }
  float sum = 0;
  SMOE_UNROLL
  for (int chain = 0; chain < kMmaChains; ++chain) sum += acc[chain][0] + acc[chain][1] + acc[chain][2] + acc[chain][3];
  stg(args.sink + int64_t{bid()} * nthreads() + tid(), bit_cast<uint32_t>(sum));
}

SMOE_KERNEL(kMultiplyThreads, 2) wgmma_kernel(MultiplyArgs args) {
  SMOE_SMEM_DYN(unsigned char, tile);
  for (int i = tid(); i < kWgmmaShared / 4; i += nthreads()) {
    const uint32_t bits = hash(i, 5);
    sts(reinterpret_cast<uint32_t*>(tile) + i, pack2(centred(bits & 0xFFFFu), centred(bits >> 16)));
  }
  fence_proxy_async();
  sync();
  uint32_t a[kWgmmaSteps][4];
  for (int s = 0; s < kWgmmaSteps; ++s) {
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = hash(tid() * 16 + 4 * s + i, 6);
      a[s][i] = pack2(centred(bits & 0xFFFFu), centred(bits >> 16));
    }
  }
  float acc[kWgmmaColumns / 2] = {};
  for (int n = 0; n < args.iterations; ++n) {
    wgmma_fence();
    SMOE_UNROLL
    for (int s = 0; s < kWgmmaSteps; ++s) {
      wgmma_rs<kWgmmaColumns>(acc, a[s], wgmma_descriptor(shared_address(tile) + 32 * s, 16, 1024, Swizzle::Bytes128));
    }
    wgmma_commit();
    wgmma_wait<0>();
  }
  float sum = 0;
  SMOE_UNROLL
  for (int i = 0; i < kWgmmaColumns / 2; ++i) sum += acc[i];
  stg(args.sink + int64_t{bid()} * nthreads() + tid(), bit_cast<uint32_t>(sum));
}

struct Nothing {};
SMOE_KERNEL(32, 1) nothing_kernel(Nothing) {
  pdl_wait();
  pdl_trigger();
}

template <class Args>
CudaError launch_on(void* stream, const Shape& shape, void (*kernel)(Args), const Args& args) {
  Stream on = nullptr;
  const CudaError refused = enter_stream(stream, &on);
  if (refused != CudaError::None) return refused;
  return left_stream(stream, launch(on, shape, kernel, args));
}

// Blocks of a grid that covers `count` elements, at most 2048: the rest is walked.
int64_t blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return blocks < 1 ? 1 : blocks > 2048 ? 2048 : blocks;
}

}  // namespace

CudaError fill_random(void* stream, const FillArgs& args) {
  return launch_on(stream, {blocks_for(args.words), kThreads, 0, false}, &fill_kernel, args);
}

CudaError fill_activations(void* stream, const ActivationArgs& args) {
  return launch_on(stream, {blocks_for(args.count / 2), kThreads, 0, false}, &activation_kernel, args);
}

CudaError read_all(void* stream, const ReadArgs& args) {
  return launch_on(stream, {args.blocks, kThreads, 0, false}, &read_kernel, args);
}

CudaError multiply_only(void* stream, const MultiplyArgs& args) {
  return args.wgmma ? launch_on(stream, {args.blocks, kMultiplyThreads, kWgmmaShared, false}, &wgmma_kernel, args)
                    : launch_on(stream, {args.blocks, kMultiplyThreads, 0, false}, &mma_kernel, args);
}

double multiply_flops(const MultiplyArgs& args) {
  const double per_warp = args.wgmma ? 16.0 * kWgmmaColumns * 16 * kWgmmaSteps : 16.0 * 8 * 16 * kMmaChains;
  return 2 * per_warp * args.iterations * (kMultiplyThreads / 32) * args.blocks;
}

CudaError launch_nothing(void* stream, bool pdl) {
  return launch_on(stream, {1, 32, 0, pdl}, &nothing_kernel, Nothing{});
}

}  // namespace smoe::bench
