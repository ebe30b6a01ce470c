// AVX2, FMA and F16C.
#include "kernels/isa/vec_avx2.h"

#define SMOE_ISA_TABLE kernels_avx2
#define SMOE_ISA_NAME "avx2"

namespace {

// 16 registers of half a tile row: 6 rows x 2 halves, the weights' 2 halves, the broadcast and a mask.
constexpr int kMaxRows = 6;
constexpr int kPairRows = 2;
constexpr int kPrefetchBytes = 1024;

}  // namespace

#include "kernels/isa/table-inl.h"
