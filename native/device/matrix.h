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
  std::vector<DeviceMatrix> planes;  // residual planes (nested_matrix.h)
  DeviceBuffer plane_table;          // their views

  bool empty() const { return rows == 0; }
  size_t bytes() const;
};

// How many planes activations have under a precision: 1, or 3 in exact.
int activation_parts(Precision precision);

// bf16 matrices stay bf16; f32 ones become three bf16 parts in exact and bf16, rounded, in fast. Quantized ones keep
// their codes where the kernels have the format (AtomFormat), else they are decoded: to bf16 in fast, to parts in
// exact. Rows are laid out on the pool, in pieces, so that the host needs little memory beside the source. All of these
// take the device's lock themselves, for each piece, so that other work goes on between them; a failure leaves `out` as
// it was.
Status upload_matrix(Device& device, const PackedMatrix& from, Precision precision, ThreadPool& pool,
                     const CancelFlag* cancel, DeviceMatrix* out);
// The same with zero rows and columns added up to [rows, cols].
Status upload_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, Precision precision,
                     ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out);
// Gate and up [I, H] of one expert by 8 + 8 rows, with zero rows and columns added up to [width, cols].
Status upload_gate_up_padded(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                             int64_t cols, Precision precision, ThreadPool& pool, const CancelFlag* cancel,
                             DeviceMatrix* out);
// The same without more columns.
Status upload_gate_up(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                      Precision precision, ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out);
// Several matrices of the same width below each other (q, k, v).
Status upload_stacked(Device& device, const std::vector<const PackedMatrix*>& from, Precision precision,
                      ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out);
// Several matrices of one shape, each from a row block of its own on (cu::LinearArgs::batch); rows and cols of `out`
// are those of one.
Status upload_batch(Device& device, const std::vector<PackedMatrix>& from, Precision precision, ThreadPool& pool,
                    const CancelFlag* cancel, DeviceMatrix* out);
Status upload_floats(Device& device, const std::vector<float>& from, DeviceBuffer* out);  // empty: empty
// A matrix row by row, as routers are read: bf16 where it is bf16, else f32; with zero columns up to `cols`.
Status upload_rows(Device& device, const PackedMatrix& from, int64_t cols, DeviceBuffer* out);
// Any other table, such as the experts' AtomMatrix views.
Status upload_bytes(Device& device, const void* from, size_t bytes, DeviceBuffer* out);

}  // namespace smoe
