// Bit-nested matrices (wn) on a device: the base and, as matrices of their own, the residual planes, so that a call may
// read the first few. For kernels that know planes (cu::NestedRead); elsewhere such matrices are decoded (matrix.h).
#pragma once

#include "device/matrix.h"

namespace smoe {

// upload_padded() and upload_gate_up_padded() that keep planes. Gate and up are laid out together, so that one of
// another format beside a bit-nested one makes both be decoded, as they are there.
Status upload_nested_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, Precision precision,
                            ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out);
Status upload_nested_gate_up_padded(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                                    int64_t cols, Precision precision, ThreadPool& pool, const CancelFlag* cancel,
                                    DeviceMatrix* out);

}  // namespace smoe
