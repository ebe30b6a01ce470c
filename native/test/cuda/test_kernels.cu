// The correct test kernels for nvcc: that they compile, and fit their budget (scripts/cuda-compile.sh).
#include "kernels/gemm.cuh"
#include "kernels/reduce.cuh"
#include "kernels/ring.cuh"
#include "kernels/wgmma.cuh"

namespace smoe::cu::test {

int launch_all(Stream stream, const BlockReduceArgs& reduce, const TicketArgs& ticket, const GemmArgs& tiled,
               const RingArgs& ring, const WgmmaArgs& wide) {
  int error = launch(stream, {1, 256, 0, false}, &block_reduce<Bug::None>, reduce);
  error |= launch(stream, {1, 64, 0, false}, &warp_reverse<Bug::None>, reduce);
  error |= launch(stream, {1, 128, 0, true}, &ticket_reduce<Bug::None>, ticket);
  error |= launch(stream, {1, 128, kGemmShared, false}, &gemm<Bug::None>, tiled);
  error |= launch(stream, {1, kRingThreads, kRingShared, false}, &ring_sum<Bug::None>, ring);
  error |= launch(stream, {1, 128, wgmma_shared<8>, false}, &wgmma_gemm<8, Bug::None>, wide);
  error |= launch(stream, {1, 128, wgmma_shared<16>, false}, &wgmma_gemm<16, Bug::None>, wide);
  error |= launch(stream, {1, 128, wgmma_shared<32>, false}, &wgmma_gemm<32, Bug::None>, wide);
  error |= launch(stream, {1, 128, wgmma_shared<64>, false}, &wgmma_gemm<64, Bug::None>, wide);
  error |= launch(stream, {1, 128, wgmma_shared<128>, false}, &wgmma_gemm<128, Bug::None>, wide);
  return error;
}

}  // namespace smoe::cu::test
