// The x86-64-v2 baseline, and any other processor.
#include "kernels/isa/vec_portable.h"

#define SMOE_ISA_TABLE kernels_portable
#define SMOE_ISA_NAME "portable"

namespace {

// One row and one tile: all the lanes that the compiler keeps in registers. Several rows kept in memory were slower
// than one row after the other.
constexpr int kMaxRows = 1;
constexpr int kPairRows = 0;
constexpr int kInt8Rows = 1;
constexpr int kPrefetchBytes = 512;

}  // namespace

#include "kernels/isa/table-inl.h"
