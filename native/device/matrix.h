// Weights on a device: packed matrices of the CPU backend laid out as atoms (kernels/experts/atoms.h).
#pragma once

#include <vector>

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "device/device.h"
#include "formats/packed_matrix.h"
#include "kernels/kernel_table.h"

namespace smoe {

struct DeviceMatrix {
  DeviceBuffer storage, scales, zeros;
  cu::AtomMatrix view;  // points into the buffers
  int64_t rows = 0, cols = 0;

  bool empty() const { return rows == 0; }
  size_t bytes() const { return storage.bytes() + scales.bytes() + zeros.bytes(); }
};

// How many planes activations have under a precision: 1, or 3 in exact.
int activation_parts(Precision precision);

// bf16 matrices stay bf16; f32 ones become three bf16 parts in exact and bf16, rounded, in fast. Quantized ones keep
// their codes where the kernels have the format (AtomFormat), else they are decoded: to bf16 in fast, to parts in
// exact. Rows are laid out on the pool, in pieces, so that the host needs little memory beside the source.
Status upload_matrix(Device& device, const PackedMatrix& from, Precision precision, ThreadPool& pool,
                     const CancelFlag* cancel, DeviceMatrix* out);
// Gate and up [I, H] of one expert by 8 + 8 rows; `width` >= I: padded with zero rows.
Status upload_gate_up(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                      Precision precision, ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out);
// Several matrices of the same width below each other (q, k, v).
Status upload_stacked(Device& device, const std::vector<const PackedMatrix*>& from, Precision precision,
                      ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out);
Status upload_floats(Device& device, const std::vector<float>& from, DeviceBuffer* out);  // empty: empty

}  // namespace smoe
