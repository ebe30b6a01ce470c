// K2 for nvcc.
#include "kernels/experts/gate_up.cuh"

namespace smoe::cu {

// tokens: the most the launch may meet, 1..64; blocks: about the number of SMs, or twice that.
int launch_gate_up(Stream stream, int blocks, int tokens, const GateUpArgs& args) {
  const auto shape = [&](int tiles) { return Shape{blocks, kExpertThreads, gate_up_shared_bytes(tiles), true}; };
  if (tokens <= 8) return launch(stream, shape(1), &gate_up<1>, args);
  if (tokens <= 16) return launch(stream, shape(2), &gate_up<2>, args);
  if (tokens <= 32) return launch(stream, shape(4), &gate_up<4>, args);
  return launch(stream, shape(8), &gate_up<8>, args);
}

}  // namespace smoe::cu
