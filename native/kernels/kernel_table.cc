#include "kernels/kernel_table.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/cpu_features.h"

namespace smoe {

extern const KernelTable kernels_portable;
#if defined(SMOE_X86)
extern const KernelTable kernels_avx2;
extern const KernelTable kernels_avx512;
extern const KernelTable kernels_avx512bf16;
#endif

namespace {

constexpr int kMaxTables = 4;

struct Usable {
  const KernelTable* tables[kMaxTables];
  const char* names[kMaxTables];
  int count = 0;

  void add(bool usable, const KernelTable& table) {
    if (!usable) return;
    tables[count] = &table;
    names[count++] = table.isa;
  }

  Usable() {
    add(true, kernels_portable);
#if defined(SMOE_X86)
    const CpuFeatures& cpu = cpu_features();
    add(cpu.avx2, kernels_avx2);
    add(cpu.avx512, kernels_avx512);
    add(cpu.avx512bf16, kernels_avx512bf16);
#endif
  }
};

const Usable& usable() {
  static const Usable list;
  return list;
}

const KernelTable* choose_default() {
  const char* wanted = std::getenv("SMOE_ISA");
  if (wanted != nullptr && wanted[0] != '\0') return find_kernels(wanted);
  return usable().tables[usable().count - 1];
}

std::atomic<const KernelTable*> forced{nullptr};

}  // namespace

const KernelTable* find_kernels(const char* isa) {
  const Usable& list = usable();
  for (int i = 0; i < list.count; ++i) {
    if (std::strcmp(list.names[i], isa) == 0) return list.tables[i];
  }
  return nullptr;
}

const KernelTable* kernels() {
  if (const KernelTable* table = forced.load(std::memory_order_acquire)) return table;
  static const KernelTable* const table = choose_default();
  return table;
}

bool force_kernels(const char* isa) {
  const KernelTable* table = isa == nullptr ? nullptr : find_kernels(isa);
  if (isa != nullptr && table == nullptr) return false;
  forced.store(table, std::memory_order_release);
  return true;
}

const char* const* usable_isas(int* count) {
  *count = usable().count;
  return usable().names;
}

}  // namespace smoe
