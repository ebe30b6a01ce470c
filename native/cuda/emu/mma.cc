#include "cuda/emu/mma.h"

#include <cstring>

namespace smoe::cu::emu {
namespace {

template <class C>
Mma<C>& operand(void* const* lanes, int lane) {
  return *static_cast<Mma<C>*>(lanes[lane]);
}

// c += a * b for whole 16 x 8 tiles, k ascending.
template <int K, class C>
void multiply(C (&c)[16][8], const C (&a)[16][K], const C (&b)[K][8]) {
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < K; ++k) {
      for (int col = 0; col < 8; ++col) c[row][col] += a[row][k] * b[k][col];
    }
  }
}

template <class C>
void gather_c(void* const* lanes, C (&c)[16][8], bool back) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < 4; ++reg) {
      const Element at = c_element(lane, reg);
      C& mine = operand<C>(lanes, lane).c[reg];
      if (back) {
        mine = c[at.row][at.col];
      } else {
        c[at.row][at.col] = mine;
      }
    }
  }
}

int32_t signed_byte(uint8_t byte) { return static_cast<int8_t>(byte); }

// 8-bit operands: four per register.
template <class C, class ConvertA, class ConvertB>
void mma_bytes(void* const* lanes, ConvertA convert_a, ConvertB convert_b) {
  C a[16][32], b[32][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma<C>& mine = operand<C>(lanes, lane);
    for (int byte = 0; byte < 4; ++byte) {
      for (int reg = 0; reg < 4; ++reg) {
        const Element at = a8_element(lane, reg, byte);
        a[at.row][at.col] = convert_a(static_cast<uint8_t>(mine.a[reg] >> (8 * byte)));
      }
      for (int reg = 0; reg < 2; ++reg) {
        const Element at = b8_element(lane, reg, byte);
        b[at.row][at.col] = convert_b(static_cast<uint8_t>(mine.b[reg] >> (8 * byte)));
      }
    }
  }
  gather_c(lanes, c, false);
  multiply<32>(c, a, b);
  gather_c(lanes, c, true);
}

}  // namespace

template <int matrices, bool transposed>
void apply_ldmatrix(Engine& engine, int warp, uint32_t, void* const* lanes) {
  const unsigned char* rows[8 * matrices];
  for (int lane = 0; lane < 8 * matrices; ++lane) {
    const Ldmatrix& mine = *static_cast<Ldmatrix*>(lanes[lane]);
    rows[lane] = static_cast<const unsigned char*>(mine.row);
    const uint32_t offset = engine.shared_offset(mine.row, 16, mine.site);
    engine.note_ldmatrix(warp, lane, offset, mine.site);
  }
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t* const result = static_cast<Ldmatrix*>(lanes[lane])->result;
    for (int half = 0; half < 2; ++half) {
      const Element at = ldmatrix_element(lane, half);
      const int row = transposed ? at.col : at.row, col = transposed ? at.row : at.col;
      for (int i = 0; i < matrices; ++i)
        std::memcpy(reinterpret_cast<unsigned char*>(&result[i]) + 2 * half, rows[8 * i + row] + 2 * col, 2);
    }
  }
}
template void apply_ldmatrix<2, false>(Engine&, int, uint32_t, void* const*);
template void apply_ldmatrix<4, false>(Engine&, int, uint32_t, void* const*);
template void apply_ldmatrix<4, true>(Engine&, int, uint32_t, void* const*);

void apply_stmatrix_trans(Engine& engine, int warp, uint32_t, void* const* lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    const Stmatrix& mine = *static_cast<Stmatrix*>(lanes[lane]);
    engine.note_stmatrix(warp, lane, engine.shared_offset(mine.row, 16, mine.site), mine.site);
    for (int half = 0; half < 2; ++half) {
      const Element at = ldmatrix_element(lane, half);
      for (int i = 0; i < 4; ++i) {
        unsigned char* const row = static_cast<unsigned char*>(static_cast<Stmatrix*>(lanes[8 * i + at.col])->row);
        const bf16 value = half_of(mine.value[i], half);
        std::memcpy(row + 2 * at.row, &value, 2);
      }
    }
  }
}

void apply_mma_bf16(Engine&, int, uint32_t, void* const* lanes) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma<float>& mine = operand<float>(lanes, lane);
    for (int half = 0; half < 2; ++half) {
      for (int reg = 0; reg < 4; ++reg) {
        const Element at = a16_element(lane, reg, half);
        a[at.row][at.col] = to_float(half_of(mine.a[reg], half));
      }
      for (int reg = 0; reg < 2; ++reg) {
        const Element at = b16_element(lane, reg, half);
        b[at.row][at.col] = to_float(half_of(mine.b[reg], half));
      }
    }
  }
  gather_c(lanes, c, false);
  multiply<16>(c, a, b);
  gather_c(lanes, c, true);
}

void apply_mma_s8(Engine&, int, uint32_t, void* const* lanes) { mma_bytes<int32_t>(lanes, signed_byte, signed_byte); }

void apply_mma_u8s8(Engine&, int, uint32_t, void* const* lanes) {
  mma_bytes<int32_t>(lanes, [](uint8_t byte) { return int32_t{byte}; }, signed_byte);
}

void apply_mma_e4m3(Engine&, int, uint32_t, void* const* lanes) {
  const auto value = [](uint8_t byte) { return to_float(e4m3{byte}); };
  mma_bytes<float>(lanes, value, value);
}

}  // namespace smoe::cu::emu
