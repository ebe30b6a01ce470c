// cp.async, mbarriers, bulk copies and proxy fences of cu.h on the GPU (PTX ISA, "Data Movement and Conversion
// Instructions: Asynchronous copy", "Parallel Synchronization: mbarrier"). emu/memory.h is the twin.
#pragma once

#include "cuda/device/memory.h"

namespace smoe::cu {

SMOE_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// A source size of 0 writes zeros and does not touch the address.
SMOE_DEVICE void cp16(void* to, const void* from, bool real = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(real ? 16 : 0)
               : "memory");
}
// For what is read once: first to leave L2.
SMOE_DEVICE void cp16_once(void* to, const void* from) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "l"(policy)
               : "memory");
}
SMOE_DEVICE void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
SMOE_DEVICE void cp_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// An arrival, which the barrier's count includes, once all earlier cp.async of this thread have landed. Committed
// groups need not be waited for.
SMOE_DEVICE void cp_arrive(uint64_t* bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(bar)) : "memory");
}

SMOE_DEVICE void mbar_init(uint64_t* bar, uint32_t count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
SMOE_DEVICE void mbar_arrive(uint64_t* bar) {
  [[maybe_unused]] uint64_t state;
  asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(state) : "r"(shared_address(bar)) : "memory");
}

#if __CUDA_ARCH__ >= 900

SMOE_DEVICE void mbar_arrive_expect(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
               : "memory");
}
// try_wait suspends for a while by itself, so that the loop does not burn issue slots.
SMOE_DEVICE void mbar_wait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
}
// The .shared::cluster destination with an address of this CTA is valid for launches without clusters too. once: read
// by this block alone, first to leave L2.
SMOE_DEVICE void bulk_g2s(void* to, const void* from, uint32_t bytes, uint64_t* bar, bool once = true) {
  if (!once) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(bar))
                 : "memory");
    return;
  }
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar)), "l"(policy)
      : "memory");
}
SMOE_DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
SMOE_DEVICE void fence_mbar_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

#else

// Bulk copies do not exist before sm_90: kernels that use them are not launched there, but must compile.
SMOE_DEVICE void mbar_arrive_expect(uint64_t*, uint32_t) { __trap(); }
SMOE_DEVICE void mbar_wait(uint64_t*, uint32_t) { __trap(); }
SMOE_DEVICE void bulk_g2s(void*, const void*, uint32_t, uint64_t*, bool = true) { __trap(); }
SMOE_DEVICE void fence_proxy_async() {}
SMOE_DEVICE void fence_mbar_init() {}

#endif

}  // namespace smoe::cu
