// The x86-64-v2 baseline, and any other processor.
#include "kernels/isa/vec_portable.h"

#define SMOE_ISA_TABLE kernels_portable
#define SMOE_ISA_NAME "portable"

namespace {

constexpr int kMaxRows = 4;
constexpr int kPairRows = 1;
constexpr int kPrefetchBytes = 512;

}  // namespace

#include "kernels/isa/table-inl.h"
