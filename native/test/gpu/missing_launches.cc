// A launch that this tree does not define, or whose file did not compile, refuses to run; a definition elsewhere takes
// precedence over these. So a check of the rest still links. nvcc and the emulation compile this file.
#include "kernels/cuda_launches.h"

namespace smoe::cu {

// cudaErrorNotSupported; the emulation knows only that it is not 0.
constexpr int kNotSupported = 801;

#define SMOE_LAUNCH(name, Args) \
  __attribute__((weak)) int launch_##name(Stream, const Args&) { return kNotSupported; }
#include "kernels/cuda_launches.def"
#undef SMOE_LAUNCH

}  // namespace smoe::cu
