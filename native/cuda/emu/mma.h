// Tensor instructions of cu.h in emulation; device/mma.h and device/wgmma.h are the twins. Sums run over k ascending in
// f32: the order inside one instruction is not specified on a GPU, so results agree within tolerance, not to the bit.
#pragma once

#include "cuda/emu/memory.h"
#include "cuda/fragments.h"

namespace smoe::cu {
namespace emu {

struct Ldmatrix {
  const void* row;
  uint32_t* result;
  Site site;
};
template <int matrices, bool transposed>
void apply_ldmatrix(Engine& engine, int warp, uint32_t mask, void* const* lanes);

struct Stmatrix {
  void* row;
  const uint32_t* value;
  Site site;
};
void apply_stmatrix_trans(Engine& engine, int warp, uint32_t, void* const* lanes);

template <class C>
struct Mma {
  C* c;
  const uint32_t *a, *b;
};
void apply_mma_bf16(Engine&, int, uint32_t, void* const* lanes);
void apply_mma_s8(Engine&, int, uint32_t, void* const* lanes);
void apply_mma_u8s8(Engine&, int, uint32_t, void* const* lanes);
void apply_mma_e4m3(Engine&, int, uint32_t, void* const* lanes);

struct Wgmma {
  float* acc;
  const uint32_t* a;
  uint64_t descriptor;
  int n;
  Site site;
};
void apply_wgmma(Engine& engine, int warp, uint32_t, void* const* lanes);
void apply_wgmma_fence(Engine& engine, int warp, uint32_t, void* const*);
void apply_wgmma_commit(Engine& engine, int warp, uint32_t, void* const*);
struct WgmmaWait {
  uint32_t pending;
};
void apply_wgmma_wait(Engine& engine, int warp, uint32_t, void* const* lanes);

}  // namespace emu

// --- ldmatrix: `row` is this lane's row address (16 aligned bytes); x2 uses those of lanes 0..15.
inline void ldmatrix_x4(uint32_t (&result)[4], const void* row, emu::Site at = emu::Site::here()) {
  emu::Ldmatrix mine{row, result, at};
  emu::engine().collective(&emu::apply_ldmatrix<4, false>, emu::kFullMask, &mine, at);
}
inline void ldmatrix_x2(uint32_t (&result)[2], const void* row, emu::Site at = emu::Site::here()) {
  emu::Ldmatrix mine{row, result, at};
  emu::engine().collective(&emu::apply_ldmatrix<2, false>, emu::kFullMask, &mine, at);
}
// Of each 8x8 matrix its transpose: rows along k become the B operand.
inline void ldmatrix_x4_trans(uint32_t (&result)[4], const void* row, emu::Site at = emu::Site::here()) {
  emu::Ldmatrix mine{row, result, at};
  emu::engine().collective(&emu::apply_ldmatrix<4, true>, emu::kFullMask, &mine, at);
}

// The reverse of ldmatrix_x4_trans (sm_90).
inline void stmatrix_x4_trans(void* row, const uint32_t (&value)[4], emu::Site at = emu::Site::here()) {
  emu::Stmatrix mine{row, value, at};
  emu::engine().collective(&emu::apply_stmatrix_trans, emu::kFullMask, &mine, at);
}

// --- mma: c += a * b, fragments as fragments.h has them.
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emu::Site at = emu::Site::here()) {
  emu::Mma<float> mine{c, a, b};
  emu::engine().collective(&emu::apply_mma_bf16, emu::kFullMask, &mine, at);
}
inline void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emu::Site at = emu::Site::here()) {
  emu::Mma<int32_t> mine{c, a, b};
  emu::engine().collective(&emu::apply_mma_s8, emu::kFullMask, &mine, at);
}
// A without signs: codes as they are stored.
inline void mma_u8s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     emu::Site at = emu::Site::here()) {
  emu::Mma<int32_t> mine{c, a, b};
  emu::engine().collective(&emu::apply_mma_u8s8, emu::kFullMask, &mine, at);
}
inline void mma_e4m3(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emu::Site at = emu::Site::here()) {
  emu::Mma<float> mine{c, a, b};
  emu::engine().collective(&emu::apply_mma_e4m3, emu::kFullMask, &mine, at);
}

// --- wgmma m64nNk16, bf16, A from registers (sm_90a). All 128 threads of a warpgroup issue it; acc and a must not be
// touched until wgmma_wait.
template <int N>
void wgmma_rs(float (&acc)[N / 2], const uint32_t (&a)[4], uint64_t descriptor, emu::Site at = emu::Site::here()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "N of wgmma");
  emu::Wgmma mine{acc, a, descriptor, N, at};
  emu::engine().collective(&emu::apply_wgmma, emu::kFullMask, &mine, at);
}
inline void wgmma_fence(emu::Site at = emu::Site::here()) {
  emu::engine().collective(&emu::apply_wgmma_fence, emu::kFullMask, nullptr, at);
}
inline void wgmma_commit(emu::Site at = emu::Site::here()) {
  emu::engine().collective(&emu::apply_wgmma_commit, emu::kFullMask, nullptr, at);
}
template <int pending>
void wgmma_wait(emu::Site at = emu::Site::here()) {
  emu::WgmmaWait mine{pending};
  emu::engine().collective(&emu::apply_wgmma_wait, emu::kFullMask, &mine, at);
}
// After the wgmma_wait that covers the sums, before they are read: for the compiler.
template <int count>
void wgmma_done(float (&)[count]) {}
// Registers are not counted.
template <int count>
void fewer_registers() {}
template <int count>
void more_registers() {}
template <class Args>
bool runs_wgmma(Stream stream, void (*)(Args)) {
  return stream->options.wgmma;
}
// The 18-bit shared-memory address that descriptors hold.
inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - emu::engine().arena());
}

}  // namespace smoe::cu
