// AVX2, FMA and F16C.
#include "kernels/isa/vec_avx2.h"

#define SMOE_ISA_TABLE kernels_avx2
#define SMOE_ISA_NAME "avx2"

namespace {

// 16 registers: 5 rows x 2 halves, the weights' 2 halves, the broadcast and a mask. 6 rows would just fit too, but the
// bf16 loops then spill (g++ 12) and lose more than the sixth row gives.
constexpr int kMaxRows = 5;
constexpr int kPairRows = 2;
// As kMaxRows: one tile of 5 rows, its codes, a broadcast and the ones of the 16-bit sums.
constexpr int kInt8Rows = 5;
constexpr int kPrefetchBytes = 512;

}  // namespace

#include "kernels/isa/table-inl.h"
