// A backend of another release, for the loader to refuse.
#include "kernels/cuda_table.h"

extern "C" __attribute__((visibility("default"))) const smoe::cu::CudaTable* smoe_cuda_table() {
  static const smoe::cu::CudaTable table = [] {
    smoe::cu::CudaTable other = {};
    other.version = smoe::cu::kCudaTableVersion + 1;
    other.bytes = smoe::cu::cuda_table_bytes();
    return other;
  }();
  return &table;
}
