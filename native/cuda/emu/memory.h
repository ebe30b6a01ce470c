// Memory wrappers of cu.h in emulation; device/memory.h and device/async.h are the twins.
#pragma once

#include "cuda/emu/threads.h"

namespace smoe::cu {

#define SMOE_SMEM_DYN(type, pointer) \
  type* const pointer = reinterpret_cast<type*>(::smoe::cu::emu::engine().dynamic_shared())
#define SMOE_SMEM(type, name, count)  \
  static const char name##_place = 0; \
  type* const name = static_cast<type*>(::smoe::cu::emu::engine().static_shared(&name##_place, sizeof(type) * (count)))

// --- global memory. ldg: ordinary; ldg_stream: read once, not kept in caches; both of 1, 2, 4, 8 or 16 bytes.
template <class T>
T ldg(const T* p, emu::Site at = emu::Site::here()) {
  emu::engine().global_read(p, sizeof(T), at);
  return *p;
}
template <class T>
T ldg_stream(const T* p, emu::Site at = emu::Site::here()) {
  return ldg(p, at);
}
// The line of p into L2. Held to the rules of reading, which on a GPU it need not obey.
inline void prefetch_l2(const void* p, emu::Site at = emu::Site::here()) { emu::engine().global_read(p, 1, at); }
template <class T>
void stg(T* p, T value, emu::Site at = emu::Site::here()) {
  emu::engine().global_write(p, sizeof(T), at);
  *p = value;
}
// A flag another thread may set. Kernels must not wait for other blocks; the emulator reports those that do.
inline uint32_t ld_acquire(const uint32_t* p, emu::Site at = emu::Site::here()) {
  emu::engine().poll(at);
  return *p;
}

// --- shared memory
template <class T>
T lds(const T* p, emu::Site at = emu::Site::here()) {
  emu::engine().shared_read(p, sizeof(T), at);
  return *p;
}
template <class T>
void sts(T* p, T value, emu::Site at = emu::Site::here()) {
  emu::engine().shared_write(p, sizeof(T), false, at);
  *p = value;
}
template <class T>
T atomic_or_shared(T* p, T bits, emu::Site at = emu::Site::here()) {
  emu::engine().shared_write(p, sizeof(T), true, at);
  const T before = *p;
  *p = before | bits;
  return before;
}
template <class T>
T atomic_add_shared(T* p, T value, emu::Site at = emu::Site::here()) {
  emu::engine().shared_write(p, sizeof(T), true, at);
  const T before = *p;
  *p = before + value;
  return before;
}

// --- cp.async: 16 bytes per call; `real` false fills with zeros and reads nothing.
inline void cp16(void* to, const void* from, bool real = true, emu::Site at = emu::Site::here()) {
  emu::engine().copy_async(to, from, real, at);
}
inline void cp16_once(void* to, const void* from, emu::Site at = emu::Site::here()) {
  emu::engine().copy_async(to, from, true, at);
}
inline void cp_commit() { emu::engine().copy_commit(); }
template <int pending>
void cp_wait(emu::Site at = emu::Site::here()) {
  emu::engine().copy_wait(pending, at);
}
// An arrival at an mbarrier, which its count includes, once all earlier cp16 of this thread have landed.
inline void cp_arrive(uint64_t* bar, emu::Site at = emu::Site::here()) { emu::engine().copy_arrive(bar, at); }

// --- mbarriers (8 aligned bytes of shared memory) and bulk copies
inline void mbar_init(uint64_t* bar, uint32_t count, emu::Site at = emu::Site::here()) {
  emu::engine().mbarrier_init(bar, count, at);
}
inline void mbar_arrive(uint64_t* bar, emu::Site at = emu::Site::here()) { emu::engine().mbarrier_arrive(bar, 0, at); }
inline void mbar_arrive_expect(uint64_t* bar, uint32_t bytes, emu::Site at = emu::Site::here()) {
  emu::engine().mbarrier_arrive(bar, bytes, at);
}
// Until the phase of this parity has completed.
inline void mbar_wait(uint64_t* bar, uint32_t parity, emu::Site at = emu::Site::here()) {
  emu::engine().mbarrier_wait(bar, parity, at);
}
// once: a hint for L2.
inline void bulk_g2s(void* to, const void* from, uint32_t bytes, uint64_t* bar, bool = true,
                     emu::Site at = emu::Site::here()) {
  emu::engine().bulk_copy(to, from, bytes, bar, at);
}

// --- fences and tickets
// Generic writes before it become visible to the async proxy (wgmma operands, bulk copies).
inline void fence_proxy_async() { emu::engine().fence_proxy_async(); }
// The same for freshly initialised mbarriers.
inline void fence_mbar_init() { emu::engine().fence_proxy_async(); }
inline void fence_gpu() { emu::engine().fence_gpu(); }
// One arrival of `arrivals`: how many came before. The last resets the ticket to 0, so that replays need no memset; its
// block may then, behind a barrier, read what the others stored before their fence_gpu.
inline uint32_t ticket_add(uint32_t* ticket, uint32_t arrivals, emu::Site at = emu::Site::here()) {
  return emu::engine().ticket(ticket, arrivals, at);
}

}  // namespace smoe::cu
