// Global and shared memory of cu.h on the GPU. emu/memory.h is the twin.
#pragma once

#include "cuda/device/threads.h"

namespace smoe::cu {

#define SMOE_SMEM_DYN(type, pointer)                                     \
  extern __shared__ __align__(1024) unsigned char smoe_dynamic_shared[]; \
  type* const pointer = reinterpret_cast<type*>(smoe_dynamic_shared)
#define SMOE_SMEM(type, name, count) __shared__ __align__(16) type name[count]

// The compiler splits copies of 16-byte structs into four loads when it likes; the vector types keep them whole.
template <int bytes>
struct Word;
template <>
struct Word<1> {
  using type = unsigned char;
};
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};
template <class T>
using WordOf = typename Word<sizeof(T)>::type;

template <class T>
SMOE_DEVICE T ldg(const T* p) {
  return bit_cast<T>(*reinterpret_cast<const WordOf<T>*>(p));
}

// For what is read once: the non-coherent path without an L1 line, first to leave L2. Only for data that no kernel
// writes. A literal L2::evict_first is refused for 128-bit loads; a cache policy is not.
template <class T>
SMOE_DEVICE T ldg_stream(const T* p) {
  static_assert(sizeof(T) == 16, "streams are read 16 bytes at a time");
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p), "l"(policy));
  return bit_cast<T>(v);
}

SMOE_DEVICE void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

template <class T>
SMOE_DEVICE void stg(T* p, T value) {
  *reinterpret_cast<WordOf<T>*>(p) = bit_cast<WordOf<T>>(value);
}
SMOE_DEVICE uint32_t ld_acquire(const uint32_t* p) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

template <class T>
SMOE_DEVICE T lds(const T* p) {
  return bit_cast<T>(*reinterpret_cast<const WordOf<T>*>(p));
}
template <class T>
SMOE_DEVICE void sts(T* p, T value) {
  *reinterpret_cast<WordOf<T>*>(p) = bit_cast<WordOf<T>>(value);
}
SMOE_DEVICE uint32_t atomic_or_shared(uint32_t* p, uint32_t bits) { return atomicOr(p, bits); }
SMOE_DEVICE uint64_t atomic_or_shared(uint64_t* p, uint64_t bits) {
  return atomicOr(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(bits));
}
SMOE_DEVICE int atomic_add_shared(int* p, int value) { return atomicAdd(p, value); }
SMOE_DEVICE uint32_t atomic_add_shared(uint32_t* p, uint32_t value) { return atomicAdd(p, value); }

// Release and acquire are all that tickets need; __threadfence() is sequentially consistent, which waits longer.
SMOE_DEVICE void fence_gpu() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
// Behind a fence_gpu(). inc wraps by itself; its acquire orders what the last arriver reads next.
SMOE_DEVICE uint32_t ticket_add(uint32_t* ticket, uint32_t arrivals) {
  uint32_t before;
  asm volatile("atom.acquire.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(ticket), "r"(arrivals - 1)
               : "memory");
  return before;
}

}  // namespace smoe::cu
