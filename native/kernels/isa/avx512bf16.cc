// AVX-512 with the BF16 dot product.
#include "kernels/isa/vec_avx512.h"

#define SMOE_ISA_TABLE kernels_avx512bf16
#define SMOE_ISA_NAME "avx512bf16"
#define SMOE_NATIVE_DOT 1  // isa/dot-inl.h

namespace {

// 32 registers: 2 tiles x 12 rows, up to 4 halves of the two chunks, the broadcast and a mask.
constexpr int kMaxRows = 12;
constexpr int kPairRows = 12;
// 24 sums, and 8 registers for codes, masks and the broadcast.
constexpr int kInt8Rows = 12;
constexpr int kPrefetchBytes = 512;

}  // namespace

#include "kernels/isa/table-inl.h"
